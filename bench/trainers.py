"""One network trained by several libraries: the same weights, the same minibatches in the same order.

Each function takes a `Case`, the flat vector of its initial parameters, data X and labels y in whole minibatches, and a
number of threads.  It gives a function that trains for so many epochs through the library's public interface, as its
documentation advises where speed matters, and returns the mean loss of each.
"""

import sys
import warnings

import numpy as np

__all__ = ["TRAINERS", "torch_network"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def train_cymlp(case, flat, X, y, threads, engine="compiled"):
    import cymlp

    options = {"batch_size": case.batch, "optimizer": case.optimizer, "learning_rate": case.rate, "shuffle": False}
    options |= case.options
    kind = {name: options.pop(name) for name in ("normalization",) if name in options}  # builds before it have no such
    network = cymlp.MLP(
        case.sizes, case.activation, case.output_activation, initializer="zeros", dtype=case.dtype, n_threads=threads,
        engine=engine, random_state=0, **kind,
    )  # fmt: skip
    network.weights, network.biases = zip(*case.layers(flat), strict=True)
    return lambda epochs: network.train(X, y, epochs=epochs, resume=True, **options).loss


def train_reference(case, flat, X, y, threads):
    return train_cymlp(case, flat, X, y, threads, engine="reference")


def train_sklearn(case, flat, X, y, threads):
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(
        case.sizes[1:-1], {"sigmoid": "logistic"}.get(case.activation, case.activation), solver=case.optimizer, alpha=0,
        batch_size=case.batch, learning_rate_init=case.rate, momentum=0, epsilon=EPSILON, shuffle=False,
        warm_start=True, n_iter_no_change=sys.maxsize,
    )  # fmt: skip
    classes = np.arange(max(2, case.sizes[-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are fewer than a minibatch
        network.partial_fit(np.zeros((len(classes), case.sizes[0]), case.dtype), classes, classes=classes)
    for W, b, (ours, biases) in zip(network.coefs_, network.intercepts_, case.layers(flat), strict=True):
        W[:], b[:] = ours, biases

    def train(epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            network.set_params(max_iter=epochs).fit(X, y)
        return network.loss_curve_[-epochs:]

    return train


def train_jax(case, flat, X, y, threads):
    import jax

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    import jax.numpy as jnp

    phi = getattr(jax.nn, case.activation)

    def loss(parameters, x, target):
        for W, b in parameters[:-1]:
            x = phi(x @ W + b)
        W, b = parameters[-1]
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(x @ W + b), axis=1))

    def adam(state, g):
        w, m, v, t = state
        t += 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        rate, root = case.rate / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
        return jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + EPSILON), w, m, v), m, v, t

    def sgd(state, g):
        return (jax.tree.map(lambda w, g: w - case.rate * g, state[0], g),)

    update = {"adam": adam, "sgd": sgd}[case.optimizer]

    def step(state, batch):
        value, g = jax.value_and_grad(loss)(state[0], *batch)
        return update(state, g), value

    def train_epoch(state, batches):
        state, losses = jax.lax.scan(step, state, batches)
        return state, losses.mean()

    epoch = jax.jit(train_epoch, donate_argnums=0)
    targets = np.eye(case.sizes[-1], dtype=case.dtype)[y]
    batches = tuple(jnp.asarray(array.reshape(-1, case.batch, array.shape[1])) for array in (X, targets))
    weights = [(jnp.array(W), jnp.array(b)) for W, b in case.layers(flat)]
    state = [(weights,)]
    if case.optimizer == "adam":
        zeros = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
        state = [(weights, *zeros, jnp.zeros((), case.dtype))]

    def train(epochs):
        losses = []
        for _ in range(epochs):
            state[0], mean = epoch(state[0], batches)
            losses.append(float(mean))
        return losses

    return train


def torch_network(case, flat):
    """The network as a torch module, without the softmax at its end.

    A layer before normalisation has no bias, as torch's documentation advises: that of the normalisation is ours.
    """
    import torch

    phi = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}[case.activation]
    norm = {"batch": torch.nn.BatchNorm1d, "layer": torch.nn.LayerNorm}.get(case.options.get("normalization"))
    rate, modules = case.options.get("dropout"), []
    for layer, (W, b) in enumerate(case.layers(flat), start=1):
        is_last, dtype = layer == case.depth, torch.tensor(b).dtype
        linear = torch.nn.Linear(*W.shape, bias=is_last or norm is None, dtype=dtype)
        linear.weight.data = torch.tensor(W.T.copy())
        if linear.bias is not None:
            linear.bias.data = torch.tensor(b)
        modules.append(linear)
        if not is_last:
            modules += [norm(len(b), dtype=dtype)] if norm else []
            modules += [phi(), torch.nn.Dropout(rate)] if rate else [phi()]
    return torch.nn.Sequential(*modules)


def train_torch(case, flat, X, y, threads, compiled=False):
    import torch

    torch.set_num_threads(threads)
    network, criterion = torch_network(case, flat), torch.nn.CrossEntropyLoss()
    weights = [module.weight for module in network if isinstance(module, torch.nn.Linear)]
    l1, clip_norm, max_norm, callback = map(case.options.get, ("l1", "clip_norm", "max_norm", "callback"))

    def loss_of(x, target):
        loss = criterion(network(x), target)
        return loss + l1 * sum(torch.linalg.vector_norm(w, 1) for w in weights) if l1 else loss

    if compiled:
        loss_of = torch.compile(loss_of)
    rule = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[case.optimizer]
    moments = {"betas": (BETA1, BETA2), "eps": EPSILON} if case.optimizer == "adam" else {}
    optimizer = rule(network.parameters(), lr=case.rate, fused=True, **moments)
    batches = list(zip(torch.tensor(X).split(case.batch), torch.tensor(y).split(case.batch), strict=True))

    def train(epochs):
        losses = []
        for _ in range(epochs):
            total = torch.zeros(())
            for x, target in batches:
                optimizer.zero_grad()
                loss = loss_of(x, target)
                loss.backward()
                if clip_norm:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
                optimizer.step()
                if max_norm:
                    for w in weights:
                        w.data.renorm_(2, 0, max_norm)
                total += loss.detach()
            losses.append(total.item() / len(batches))
            if callback:
                callback(losses[-1])
        return losses

    return train


def train_torch_compile(case, flat, X, y, threads):
    return train_torch(case, flat, X, y, threads, compiled=True)


TRAINERS = {
    "cymlp": train_cymlp,
    "reference": train_reference,
    "sklearn": train_sklearn,
    "jax": train_jax,
    "torch": train_torch,
    "torch-compile": train_torch_compile,
}
