"""limit_tensorflow.py: TensorFlow, graphs and sessions as in version 1, until ResourceExhausted."""

import sys

import limit_case


def prepare(tensorflow):
    tf = getattr(tensorflow, "compat", tensorflow)
    tf = getattr(tf, "v1", tf)
    if not tensorflow.config.list_physical_devices("GPU"):
        raise limit_case.NoGpu("list_physical_devices('GPU') is empty")
    tf.disable_eager_execution()
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    session = tf.Session(config=config)

    def compute():
        with tf.device("/GPU:0"):
            ones = tf.ones((256, 256))
            return float(session.run(tf.reduce_sum(tf.matmul(ones, ones)))) == 256.0**3

    def take(count):
        with tf.device("/GPU:0"):
            variable = tf.Variable(tf.zeros((count // 4,), dtype=tf.float32))
        session.run(variable.initializer)
        return variable

    return take, tf.errors.ResourceExhaustedError, compute


if __name__ == "__main__":
    sys.exit(limit_case.run("TensorFlow (version 1 interface)", "tensorflow", prepare))
