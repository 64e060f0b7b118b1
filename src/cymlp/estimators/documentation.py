"""What both estimators' docstrings have in common, once: `documented` fills it in."""

__all__ = ["documented"]

_PARTS = {
    "layers": """hidden_layer_sizes : array-like of int, or int, default (100,)
    Units of each hidden layer; () for none.
activation : str, Activation, or list of them, default "relu"
    Of the hidden layers: "identity", "logistic", "tanh" and "relu" as in scikit-learn; further "sigmoid" (the same as
    "logistic"), "leaky_relu", "elu", "gelu", "silu", "softplus"; a `cymlp.activations.Activation` such as
    ``cymlp.activations.leaky_relu(0.1)``; or a list with one for each hidden layer.""",
    "training": """solver : {"adam", "sgd", "lbfgs"}, default "adam"
    "adam" is Kingma & Ba (2015), Adam: a method for stochastic optimization, in the form of the end of section 2; "sgd"
    gradient descent with momentum; "lbfgs" a quasi-Newton method over all rows, Byrd, Lu, Nocedal & Zhu (1995), A
    limited memory algorithm for bound constrained optimization.
alpha : float, default 0.0001
    Strength of the L2 penalty: the loss of a minibatch gets alpha / 2 times the sum of squared weights, over its rows
    (over the sum of their weights).  Biases are not penalised.
batch_size : int or "auto", default "auto"
    Rows of a minibatch; "auto" is min(200, n_samples).  Not read by "lbfgs".
learning_rate : {"constant", "invscaling", "adaptive"} or callable, default "constant"
    For "sgd": "invscaling" divides learning_rate_init by (t_ + 1) ** power_t after each epoch, "adaptive" divides the
    rate by 5 when training stops getting better.  A function ``f(progress)`` of the share of epochs that are done, in
    [0, 1), returns the factor on learning_rate_init for the next one, for "sgd" and "adam".
learning_rate_init : float, default 0.001
    The rate to begin with, greater than 0.  Not read by "lbfgs".
power_t : float, default 0.5
    Exponent of "invscaling".
max_iter : int, default 200
    The most epochs, or iterations of "lbfgs".
shuffle : bool, default True
    Whether each epoch takes the rows in a new random order.
random_state : int, RandomState or None, default None
    Where weights, the validation split and the order of rows come from.  The draws are those of scikit-learn.
tol : float, default 1e-4
    Training ends when loss or score gets better by less than this for `n_iter_no_change` epochs; the gradient's
    tolerance of "lbfgs".
verbose : bool, default False
    Whether to print the loss of each epoch.
warm_start : bool, default False
    Whether `fit` goes on from the parameters of the previous one.
momentum : float, default 0.9
    Of "sgd", in [0, 1].
nesterovs_momentum : bool, default True
    Whether "sgd" takes Nesterov's momentum: Sutskever et al. (2013), On the importance of initialization and momentum.
early_stopping : bool, default False
    Whether to end when the validation score stops getting better, and to take the best parameters back.  Scored are
    `validation_data` of `fit`, or a part of the training data.  Not read by "lbfgs".
validation_fraction : float, default 0.1
    Share of the training data that early stopping holds out, in [0, 1).
beta_1 : float, default 0.9
    Decay of "adam"'s first moment, in [0, 1).
beta_2 : float, default 0.999
    Decay of its second moment, in [0, 1).
epsilon : float, default 1e-8
    What "adam" adds to its divisor, greater than 0.
n_iter_no_change : int or inf, default 10
    Epochs without getting better by `tol` after which training ends.
max_fun : int, default 15000
    The most evaluations of the loss by "lbfgs".""",
    "more": """initializer : str, callable or None, default None
    None takes scikit-learn's draw, uniform with a variance of 2 / (n_in + n_out) for weights (a third of it for
    "logistic") and biases from the same interval: Glorot & Bengio (2010), Understanding the difficulty of training deep
    feedforward neural networks, eq. 16.  Else a name from `cymlp.initializers.INITIALIZERS`, "auto", or a function
    ``f(rng, n_in, n_out, gain=...)``; biases are zero then.
gain : float, default 1.0
    Factor on the initial weights, greater than 0.
scoring : str, callable or None, default None
    What `validation_scores_` holds: None for the accuracy or R^2; "loss" for the negative loss, without the penalty; or
    anything that `sklearn.metrics.check_scoring` takes.  The given sample weights are used where the scorer takes
    them; those of classes never are.
callbacks : callable, list of callables or None, default None
    Called with an event after each epoch (iteration of "lbfgs"): ``event.epoch``, ``.loss``, ``.validation_score``,
    ``.validation_loss`` and ``.estimator``.  Training stops where one returns True.  Those of scikit-learn 1.9's
    protocol are set by ``set_callbacks``.
n_threads : int or None, default None
    The most threads of a call; None decides by the machine and the work.  Results do not depend on it.
max_time : float or None, default None
    Seconds after which training ends, in the middle of an epoch if it is a long one.
engine : {"compiled", "reference"}, default "compiled"
    "reference" computes with NumPy: slower, otherwise the same.""",
    "attributes": """loss_ : float
    Of the last epoch: the mean over its minibatches, each with the parameters that it met, weighted by their rows.
best_loss_ : float or None
    The smallest loss of an epoch; None with early stopping.
loss_curve_ : list of float
    The loss of each epoch, or after each iteration of "lbfgs".
validation_scores_ : list of float or None
    After each epoch, with early stopping or `validation_data`.
best_validation_score_ : float or None
    The largest of them; None without early stopping.
validation_loss_curve_ : list of float
    After each epoch, with `validation_data` or ``scoring="loss"``; without the penalty.
t_ : int
    Examples trained with so far, each time counted.
coefs_ : list of ndarray (n_in, n_out)
    Weights of each layer.  What is written into them, or assigned, is predicted with.
intercepts_ : list of ndarray (n_out,)
    Biases of each layer, likewise.
n_features_in_ : int
    Features seen by `fit`.
feature_names_in_ : ndarray (n_features_in_,)
    Their names, where X had any that are all strings.
n_iter_ : int
    Epochs of the last call of `fit`.
n_layers_ : int
    Layers, inputs included.
n_outputs_ : int
    Units of the output layer.
out_activation_ : str
    Its activation.
network_ : cymlp.MLP
    The network inside.  ``network_.predict(X)`` gives the output layer's activations without scikit-learn's checks, in
    a microsecond or less for one row.""",
}


def documented(cls, parts=_PARTS):
    """Fill in the parts ``{name}`` of a class's docstring, each on a line of its own and indented as that is."""
    lines = []
    for line in cls.__doc__.split("\n"):
        name = line.strip()
        if name.startswith("{") and name.endswith("}"):
            indent = line[: line.index("{")]
            lines += [indent + part if part else "" for part in parts[name[1:-1]].split("\n")]
        else:
            lines.append(line)
    cls.__doc__ = "\n".join(lines)
    return cls
