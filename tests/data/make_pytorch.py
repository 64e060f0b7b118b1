"""Make pytorch.json: what PyTorch computes in float64 where cymlp claims the same formulas.

``python make_pytorch.py`` writes the file beside this one; test_reference_pytorch.py compares the reference with it,
and where PyTorch can be imported the file with what `tables` makes there.  A table has inputs and results alike.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

FILE = Path(__file__).with_name("pytorch.json")
EPSILON, MOMENTUM = 1e-3, 0.2


def _tensor(array):
    return torch.tensor(array, dtype=torch.float64)


def _normalizations(rng):
    """Forward, backward, and running statistics over several minibatches, the last one of 2 rows."""
    scale, shift = rng.uniform(0.5, 1.5, 4), rng.normal(size=4)
    batch = nn.BatchNorm1d(4, EPSILON, MOMENTUM).double()
    layer = nn.LayerNorm(4, EPSILON).double()
    for module in (batch, layer):
        module.weight.data, module.bias.data = _tensor(scale), _tensor(shift)
    yield "scale", scale
    yield "shift", shift
    for step, rows in enumerate((6, 5, 2)):
        z, dY = rng.normal(1, 2, (rows, 4)), rng.normal(size=(rows, 4))
        yield f"Z{step}", z
        yield f"dY{step}", dY
        for name, module in (("batch", batch), ("layer", layer)):
            Z = _tensor(z).requires_grad_()
            module.zero_grad()
            Y = module(Z)
            Y.backward(_tensor(dY))
            yield f"{name}_Y{step}", Y
            yield f"{name}_dZ{step}", Z.grad
            yield f"{name}_dscale{step}", module.weight.grad
            yield f"{name}_dshift{step}", module.bias.grad
        yield f"running_mean{step}", batch.running_mean
        yield f"running_variance{step}", batch.running_var
    yield "predicted", batch.eval()(_tensor(z))


# Name -> PyTorch's optimiser of parameters, and the same as a rule.  Its SGD adds weight_decay w to the gradient.
OPTIMIZERS = {
    "sgd": (
        lambda w: torch.optim.SGD(w, lr=0.1, weight_decay=0.05),
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "nesterov": False, "l2": 0.05},
    ),
    "momentum": (
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, weight_decay=0.05),
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "l2": 0.05},
    ),
    "nesterov": (
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.8, "nesterov": True, "l2": 0.05},
    ),
    "rmsprop": (
        lambda w: torch.optim.RMSprop(w, lr=0.01, alpha=0.8, eps=1e-3, weight_decay=0.05),
        {"name": "rmsprop", "learning_rate": 0.01, "rho": 0.8, "epsilon": 1e-3, "l2": 0.05},
    ),
    "adam": (
        lambda w: torch.optim.Adam(w, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05),
        {"name": "adam", "learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "l2": 0.05},
    ),
    "adamw": (
        lambda w: torch.optim.AdamW(w, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.5),
        {"name": "adamw", "learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.5},
    ),
}


def _optimizers(rng):
    """Parameters after each of 5 steps."""
    start, gradients = rng.normal(size=3), rng.normal(size=(5, 3))
    yield "start", start
    yield "gradients", gradients
    for name, (make, _) in OPTIMIZERS.items():
        w = _tensor(start).requires_grad_()
        optimizer, path = make([w]), []
        for gradient in gradients:
            w.grad = _tensor(gradient)
            optimizer.step()
            path.append(w.detach().numpy().copy())
        yield name, np.array(path)


def _clipping(rng):
    """By value and by norm; PyTorch divides by the norm + 1e-6."""
    gradients = rng.normal(size=7)
    yield "gradients", gradients
    for name, clip in (("value", nn.utils.clip_grad_value_), ("norm", nn.utils.clip_grad_norm_)):
        w = [torch.zeros(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]
        for part, gradient in zip(w, (gradients[:3], gradients[3:]), strict=True):
            part.grad = _tensor(gradient)
        answer = clip(w, 0.5)
        yield f"by_{name}", torch.cat([part.grad for part in w])
        if answer is not None:
            yield "norm", answer


# The networks that are trained: sizes, and the rule beside that of the optimiser.
SIZES, BATCH = (4, 6, 5, 3), 4
TRAINING = {
    "adamw": {"penalize_biases": True, "clip_norm": 0.25},
    "momentum": {"penalize_biases": True, "clip_value": 0.03, "max_norm": 1.0},
}


def _trained(rng, name):
    """A batch-normalised and a layer-normalised layer; two epochs of minibatches of 4, 4 and 3 rows."""
    more = TRAINING[name]
    batch, layer = nn.BatchNorm1d(SIZES[1], EPSILON, MOMENTUM), nn.LayerNorm(SIZES[2], EPSILON)
    dense = [
        nn.Linear(SIZES[0], SIZES[1], bias=False),
        nn.Linear(SIZES[1], SIZES[2], bias=False),
        nn.Linear(*SIZES[2:]),
    ]
    network = nn.Sequential(dense[0], batch, nn.Tanh(), dense[1], layer, nn.Softplus(), dense[2]).double()
    order = []  # as in the flat vector of cymlp
    for linear, norm in zip(dense, (batch, layer, None), strict=True):
        order += [linear.weight] + ([linear.bias] if norm is None else [norm.bias, norm.weight])
    scales = (batch.weight, layer.weight)
    for parameter in order:
        center = 1 if any(parameter is scale for scale in scales) else 0
        parameter.data = _tensor(rng.normal(center, 0.5, parameter.shape))

    def flat():
        return torch.cat([(p.detach().T if p.ndim == 2 else p.detach()).reshape(-1) for p in order])

    X, y = rng.normal(size=(11, SIZES[0])), rng.integers(0, SIZES[-1], 11)
    yield f"{name}_X", X
    yield f"{name}_y", y
    yield f"{name}_start", flat()
    optimizer, losses, lengths = OPTIMIZERS[name][0](network.parameters()), [], []
    for start in 2 * [0, BATCH, 2 * BATCH]:
        rows = slice(start, start + BATCH)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(_tensor(X[rows])), torch.tensor(y[rows]))
        loss.backward()
        losses.append(loss.item())
        lengths.append(nn.utils.clip_grad_norm_(network.parameters(), float("inf")).item())
        for parameter in network.parameters():
            if "clip_norm" in more:
                parameter.grad *= min(1, more["clip_norm"] / lengths[-1])
            else:
                parameter.grad.clamp_(-more["clip_value"], more["clip_value"])
        optimizer.step()
        if "max_norm" in more:
            for layer_of_units in dense:
                W = layer_of_units.weight.data
                W *= (more["max_norm"] / W.norm(dim=1, keepdim=True)).clamp(max=1)
    yield f"{name}_losses", np.array(losses)
    yield f"{name}_norms", np.array(lengths)
    yield f"{name}_end", flat()
    yield f"{name}_statistics", torch.cat([batch.running_mean, batch.running_var])
    yield f"{name}_predicted", torch.softmax(network.eval()(_tensor(X)), dim=1)


def tables():
    """{table: {name: array}}."""
    rng = np.random.default_rng(20240229)
    made = {"normalizations": _normalizations(rng), "optimizers": _optimizers(rng), "clipping": _clipping(rng)}
    made["training"] = (item for name in TRAINING for item in _trained(rng, name))
    return {
        table: {name: torch.as_tensor(value).detach().numpy().copy() for name, value in items}
        for table, items in made.items()
    }


def rules():
    """{table: {name: rule}}: what cymlp has to be told for the same."""
    alone = {name: rule for name, (_, rule) in OPTIMIZERS.items()}
    return {"optimizers": alone, "training": {name: alone[name] | more for name, more in TRAINING.items()}}


if __name__ == "__main__":
    lines = [f'"torch": "{torch.__version__}"', f'"rules": {json.dumps(rules())}']
    for table, arrays in tables().items():
        items = (f'  "{name}": {json.dumps(array.tolist())}' for name, array in arrays.items())
        lines.append(f'"{table}": {{\n' + ",\n".join(items) + "\n}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
