"""One network trained by several libraries: float32, Adam, the same weights, the same minibatches in the same order.

Each function takes a `Case`, the flat vector of its initial parameters, data X and labels y in whole minibatches, and a
number of threads, and gives the version of its library, and a function that trains for so many epochs through the
library's public interface and returns the mean loss of each.
"""

import sys
import warnings

import numpy as np

__all__ = ["TRAINERS"]

RATE, BETA1, BETA2, EPSILON = 0.001, 0.9, 0.999, 1e-8


def train_cymlp(case, flat, X, y, threads, engine="compiled"):
    import cymlp

    network = cymlp.MLP(
        case.sizes, output_activation="softmax", dtype=np.float32, n_threads=threads, engine=engine, random_state=0
    )
    network.parameters = flat
    options = {"batch_size": case.batch, "optimizer": "adam", "shuffle": False, "resume": True}
    return cymlp.__version__, lambda epochs: network.train(X, y, epochs=epochs, **options).loss


def train_reference(case, flat, X, y, threads):
    return f"NumPy {np.__version__}", train_cymlp(case, flat, X, y, threads, engine="reference")[1]


def train_sklearn(case, flat, X, y, threads):
    import sklearn
    from sklearn.neural_network import MLPClassifier

    if case.sizes[-1] == 2:
        raise ValueError("two classes are one output in scikit-learn: not the same network")
    network = MLPClassifier(
        case.sizes[1:-1], alpha=0, batch_size=case.batch, learning_rate_init=RATE, epsilon=EPSILON, shuffle=False,
        warm_start=True, n_iter_no_change=sys.maxsize,
    )  # fmt: skip
    network.partial_fit(X[: case.batch], y[: case.batch], classes=np.arange(case.sizes[-1]))
    for W, b, (ours, biases) in zip(network.coefs_, network.intercepts_, case.layers(flat), strict=True):
        W[:], b[:] = ours, biases

    def train(epochs):
        with warnings.catch_warnings(action="ignore"):  # that it has not converged
            network.set_params(max_iter=epochs).fit(X, y)
        return network.loss_curve_[-epochs:]

    return sklearn.__version__, train


def train_jax(case, flat, X, y, threads):
    import jax
    import jax.numpy as jnp

    def loss(parameters, x, target):
        for W, b in parameters[:-1]:
            x = jax.nn.relu(x @ W + b)
        W, b = parameters[-1]
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(x @ W + b), axis=1))

    def step(state, batch):
        w, m, v, t = state
        value, g = jax.value_and_grad(loss)(w, *batch)
        t += 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        rate, root = RATE / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
        w = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + EPSILON), w, m, v)
        return (w, m, v, t), value

    def train_epoch(state, batches):
        state, losses = jax.lax.scan(step, state, batches)
        return state, losses.mean()

    epoch = jax.jit(train_epoch, donate_argnums=0)
    targets = np.eye(case.sizes[-1], dtype=np.float32)[y]
    batches = tuple(jnp.asarray(array.reshape(-1, case.batch, array.shape[1])) for array in (X, targets))
    weights = [(jnp.array(W), jnp.array(b)) for W, b in case.layers(flat)]
    state = [(weights, jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights), jnp.float32(0))]

    def train(epochs):
        losses = []
        for _ in range(epochs):
            state[0], mean = epoch(state[0], batches)
            losses.append(float(mean))
        return losses

    return jax.__version__, train


def train_torch(case, flat, X, y, threads):
    import torch

    torch.set_num_threads(threads)
    modules = []
    for W, b in case.layers(flat):
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data, linear.bias.data = torch.tensor(W.T.copy()), torch.tensor(b)
        modules += [linear, torch.nn.ReLU()]
    network, criterion = torch.nn.Sequential(*modules[:-1]), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)
    batches = list(zip(torch.tensor(X).split(case.batch), torch.tensor(y).split(case.batch), strict=True))

    def train(epochs):
        losses = []
        for _ in range(epochs):
            total = torch.zeros(())
            for x, target in batches:
                optimizer.zero_grad()
                loss = criterion(network(x), target)
                loss.backward()
                optimizer.step()
                total += loss.detach()
            losses.append(total.item() / len(batches))
        return losses

    return torch.__version__, train


TRAINERS = {
    "cymlp": train_cymlp,
    "reference": train_reference,
    "sklearn": train_sklearn,
    "jax": train_jax,
    "torch": train_torch,
}
