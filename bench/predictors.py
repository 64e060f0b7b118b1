"""Predictions of one network by several libraries: a NumPy matrix in, a NumPy matrix of probabilities out.

Each function takes a `Case`, the flat vector of its parameters, a list of matrices X with different numbers of rows,
and a number of threads.  It gives for each matrix a pair (function, argument): what is called again and again, set up
as the library's documentation advises where speed matters.
"""

import warnings

import numpy as np

__all__ = ["PREDICTORS", "onnx_model"]


def predict_cymlp(case, flat, matrices, threads, engine="compiled"):
    import cymlp

    network = cymlp.MLP(
        case.sizes, case.activation, case.output_activation, initializer="zeros", dtype=case.dtype, n_threads=threads,
        engine=engine, **case.options,
    )  # fmt: skip
    network.weights, network.biases = zip(*case.layers(flat), strict=True)
    if case.options:
        scales, means, variances = ([*arrays, None] for arrays in zip(*case.normalizers(), strict=True))
        network.scales = scales
        if case.options["normalization"] == "batch":
            network.running_means, network.running_variances = means, variances
    return [(network.predict, X) for X in matrices]


def predict_reference(case, flat, matrices, threads):
    return predict_cymlp(case, flat, matrices, threads, engine="reference")


def predict_sklearn(case, flat, matrices, threads):
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(case.sizes[1:-1], {"sigmoid": "logistic"}.get(case.activation, case.activation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = np.arange(max(2, case.sizes[-1]))
        network.partial_fit(np.zeros((len(labels), case.sizes[0]), case.dtype), labels, classes=labels)
    for W, b, (ours, biases) in zip(network.coefs_, network.intercepts_, case.layers(flat), strict=True):
        W[:], b[:] = ours, biases
    predict = network.predict_proba if case.sizes[-1] > 1 else lambda X: network.predict_proba(X)[:, 1:]
    return [(predict, X) for X in matrices]


def predict_jax(case, flat, matrices, threads):
    import jax

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    import jax.numpy as jnp

    phi = getattr(jax.nn, case.activation)
    *hidden, (W_out, b_out) = [(jnp.array(W), jnp.array(b)) for W, b in case.layers(flat)]

    @jax.jit
    def forward(hidden, W_out, b_out, x):
        for W, b in hidden:
            x = phi(x @ W + b)
        return jax.nn.softmax(x @ W_out + b_out)

    def predict(X):
        return np.asarray(forward(hidden, W_out, b_out, X))

    return [(predict, X) for X in matrices]


def predict_torch(case, flat, matrices, threads, compiled=False):
    import torch

    from bench.trainers import torch_network

    torch.set_num_threads(threads)
    network = torch.nn.Sequential(*torch_network(case, flat), torch.nn.Softmax(dim=1)).eval()
    norms = [module for module in network if isinstance(module, torch.nn.BatchNorm1d | torch.nn.LayerNorm)]
    for norm, (scale, mean, variance) in zip(norms, case.normalizers() if norms else [], strict=True):
        norm.weight.data = torch.tensor(scale)
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean, norm.running_var = torch.tensor(mean), torch.tensor(variance)
    if compiled:
        network = torch.compile(network)

    @torch.inference_mode()
    def predict(X):
        return network(torch.from_numpy(X)).numpy()

    return [(predict, X) for X in matrices]


def predict_torch_compile(case, flat, matrices, threads):
    return predict_torch(case, flat, matrices, threads, compiled=True)


def onnx_model(case, flat, rows=None):
    """The network in ONNX's format, as bytes, for so many rows, or for any number."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    real = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[case.dtype]
    phi = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[case.activation]
    nodes, tensors, name = [], [], "X"
    for l, (W, b) in enumerate(case.layers(flat), start=1):
        tensors += [numpy_helper.from_array(W, f"W{l}"), numpy_helper.from_array(b, f"b{l}")]
        nodes.append(helper.make_node("Gemm", [name, f"W{l}", f"b{l}"], [f"Z{l}"]))
        name = f"A{l}"
        kind = {"axis": 1} if l == case.depth else {}
        nodes.append(helper.make_node("Softmax" if l == case.depth else phi, [f"Z{l}"], [name], **kind))
    shapes = [("X", case.sizes[0]), (name, case.sizes[-1])]
    inputs, outputs = ([helper.make_tensor_value_info(label, real, [rows or "rows", n])] for label, n in shapes)
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def predict_onnxruntime(case, flat, matrices, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    calls = []
    for X in matrices:
        model = onnx_model(case, flat, len(X))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        calls.append((_first_output(session), {"X": X}))
    return calls


def _first_output(session):
    run, names = session.run, [session.get_outputs()[0].name]
    return lambda inputs: run(names, inputs)[0]


def predict_openvino(case, flat, matrices, threads):
    import openvino

    if case.dtype != "float32":
        raise ValueError("OpenVINO computes in float32 on a CPU, whatever the model says")
    core, calls = openvino.Core(), []
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    options["INFERENCE_PRECISION_HINT"] = "f32"  # by itself it may take bfloat16
    for X in matrices:
        model = core.read_model(onnx_model(case, flat, len(X)), b"")
        request = core.compile_model(model, "CPU", options).create_infer_request()
        calls.append((_shared(request.infer), [X]))
    return calls


def _shared(infer):
    """Without a copy of input or result: the result is overwritten by the next call."""
    return lambda inputs: infer(inputs, share_inputs=True, share_outputs=True)[0]


PREDICTORS = {
    "cymlp": predict_cymlp,
    "reference": predict_reference,
    "sklearn": predict_sklearn,
    "jax": predict_jax,
    "torch": predict_torch,
    "torch-compile": predict_torch_compile,
    "onnxruntime": predict_onnxruntime,
    "openvino": predict_openvino,
}
