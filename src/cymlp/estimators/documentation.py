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
learning_rate : {"constant", "invscaling", "adaptive"}, callable or schedule, default "constant"
    For "sgd": "invscaling" divides learning_rate_init by (t_ + 1) ** power_t after each epoch, "adaptive" divides the
    rate by 5 when training stops getting better.  A function ``f(progress)`` of the share of epochs that are done, in
    [0, 1), returns the factor on learning_rate_init for the next one, for "sgd" and "adam".  A schedule from
    `cymlp.schedules` gives these two the rate itself for each minibatch; what it counts goes on in `partial_fit`.
learning_rate_init : float, default 0.001
    The rate to begin with, greater than 0.  Not read by "lbfgs", or with a schedule.
power_t : float, default 0.5
    Exponent of "invscaling".
max_iter : int, default 200
    The most epochs, or iterations of "lbfgs".
shuffle : bool, "stratified" or "weighted", default True
    Whether each epoch takes the rows in a new random order.  "stratified", for classifiers whose targets are one class
    each, has the mix of classes in every minibatch.  "weighted" draws as many rows with replacement, each as likely as
    its weight (by `sample_weight`, times that of its class) is large; the loss then has no weights.
random_state : int, RandomState or None, default None
    Where weights, the validation split and the order of rows come from.  The draws are those of scikit-learn; those of
    "stratified" and "weighted" go on in later calls that go on with the network.
tol : float, default 1e-4
    Training ends when loss or score gets better by less than this for `n_iter_no_change` epochs; the gradient's
    tolerance of "lbfgs".
verbose : bool, default False
    Whether to print the loss of each epoch.
warm_start : bool, default False
    Whether `fit` goes on from the parameters of the previous one.
momentum : float or schedule, default 0.9
    Of "sgd", in [0, 1].  A schedule is one from `cymlp.schedules`, or a function of the number of minibatches so far.
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
dropout : float, schedule or list of them, default 0.0
    The probability, in [0, 1], with which an output of a hidden layer is 0 in a step of training; the others are
    divided by 1 - p.  In a list, the first one is that of the inputs, then one for each hidden layer.  A schedule is
    one from `cymlp.schedules`, or a function of the number of minibatches so far.  Srivastava et al. (2014), Dropout: a
    simple way to prevent neural networks from overfitting.
batch_norm : bool or BatchNorm, default False
    Whether the sums of each hidden unit are brought to mean 0 and variance 1 over the minibatch, before its activation;
    `predict` takes running means and variances.  A `cymlp.normalizations.BatchNorm` has numbers other than the
    defaults.  Ioffe & Szegedy (2015), Batch normalization: accelerating deep network training by reducing internal
    covariate shift.
layer_norm : bool or LayerNorm, default False
    The same over the units of each hidden layer, row by row; not together with `batch_norm`.  Ba, Kiros & Hinton
    (2016), Layer normalization.
l1 : float, default 0.0
    The loss of a minibatch gets l1 times the sum of the weights' magnitudes.
l2 : float, default 0.0
    The loss of a minibatch gets l2 / 2 times the sum of squared weights: as `alpha`, but of any number of rows.
weight_decay : float or schedule, default 0.0
    Weights are multiplied by 1 - rate * weight_decay before each step: Loshchilov & Hutter (2019), Decoupled weight
    decay regularization.  Schedules are as for `momentum`, with "adam", too.
max_norm : float or None, default None
    After each step the incoming weights of a unit are scaled down to this Euclidean norm where theirs is more.
penalize_biases : bool, default False
    Whether `alpha`, `l1`, `l2` and `weight_decay` are for biases, and scales of normalisation, too.
clip_norm : float or None, default None
    The Euclidean norm that the gradient of a minibatch's loss, before penalties, is scaled down to where it is more:
    Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, algorithm 1.  With
    infinity it is measured only.
clip_layer_norm : float or None, default None
    The same for the part of each layer; not together with `clip_norm`.
clip_value : float or None, default None
    The magnitude that elements of this gradient are limited to; not together with `clip_norm` or `clip_layer_norm`.
scoring : str, callable or None, default None
    What `validation_scores_` holds: None for the accuracy or R^2; "loss" for the negative loss, without the penalty; or
    anything that `sklearn.metrics.check_scoring` takes.  The given sample weights are used where the scorer takes
    them; those of classes never are.
callbacks : callable, list of callables or None, default None
    Called with an event after each epoch (iteration of "lbfgs"): ``event.epoch``, ``.epochs``, ``.step``, ``.loss``,
    ``.validation_score``, ``.validation_loss``, ``.learning_rate``, ``.gradient_norm``, ``.seconds`` and
    ``.estimator``, None where there is none.  Training stops where one returns True.  Methods ``begin(event)`` and
    ``end(event)`` of it are called before the first epoch, and after the last one however that ends, as those in
    `cymlp.callbacks` have them.  Callbacks of scikit-learn 1.9's protocol are set by ``set_callbacks``.
n_threads : int or None, default None
    The most threads of a call; None decides by the machine and the work.  Results do not depend on it.
max_time : float or None, default None
    Seconds after which training ends, in the middle of an epoch if it is a long one.
health : bool or int, default True
    Whether layers are watched while they train, for `health_`, which changes no number; an integer k: in every k-th
    step instead of every 256th.
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
gradient_norm_curve_ : list of float
    The mean over each epoch's minibatches of the gradient's norm before it was clipped, with `clip_norm` or
    `clip_layer_norm`.
t_ : int
    Examples trained with so far, each time counted.
coefs_ : list of ndarray (n_in, n_out)
    Weights of each layer.  What is written into them, or assigned, is predicted with.
intercepts_ : list of ndarray (n_out,)
    Biases of each layer, likewise; what normalised sums are shifted by.
scales_ : list of ndarray (n_out,) or None
    What they are multiplied by, for each layer; None for one that is not normalised.
running_means_, running_variances_ : list of ndarray (n_out,) or None
    What batch-normalised layers predict with, for each layer; None for the others.
health_ : cymlp.health.HealthReport
    What is wrong with the layers, if anything, since when, and what to change; with `health`.  ``print`` it.
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
