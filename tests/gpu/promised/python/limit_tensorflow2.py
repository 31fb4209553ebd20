"""limit_tensorflow2.py: TensorFlow 2, eager, until ResourceExhaustedError."""

import sys

import limit_case


def prepare(tf):
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise limit_case.NoGpu("list_physical_devices('GPU') is empty")
    tf.config.experimental.set_memory_growth(cards[0], True)

    def compute():
        with tf.device("/GPU:0"):
            ones = tf.ones((256, 256))
            return float(tf.reduce_sum(tf.matmul(ones, ones))) == 256.0**3

    def take(count):
        with tf.device("/GPU:0"):
            return tf.zeros((count // 4,), dtype=tf.float32)

    return take, tf.errors.ResourceExhaustedError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("TensorFlow 2", "tensorflow", prepare))
