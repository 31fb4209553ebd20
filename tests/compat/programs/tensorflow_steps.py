"""tensorflow_steps.py: some steps of TensorFlow with fixed seeds, then memory to the end."""

import kit

tf = kit.need("tensorflow")


def main():
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        kit.skip("TensorFlow finds no GPU")
    tf.config.experimental.set_memory_growth(cards[0], True)
    tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(6)
    data = tf.random.normal((256, 128))
    weights = tf.Variable(tf.random.normal((128, 64)))
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.tanh(data @ weights) ** 2)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))
    results = {"loss": float(loss).hex(), "weights": kit.checksum(weights.numpy())}

    def take(count):
        with tf.device("/GPU:0"):
            return tf.zeros((count,), dtype=tf.uint8)

    figures = kit.fill(take, tf.errors.ResourceExhaustedError)
    kit.finish(results, version=tf.__version__, **figures)


if __name__ == "__main__":
    main()
