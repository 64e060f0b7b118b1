"""MLP: how a network is made, trained and kept.

What it is before that is in ``architecture.py`` and ``parameters.py``, what it computes in ``computation.py``, the loop
over epochs in ``training.py``; files are written and read in ``persistence.py``.
"""

import numpy as np

from . import _validation, initializers
from .architecture import as_dtype
from .computation import Computation, Forward, Gradients
from .layout import chained_sizes

__all__ = ["MLP", "Forward", "Gradients"]


class MLP(Computation):
    """A multilayer perceptron: A_l = phi_l(A_{l-1} W_l + b_l) for l = 1 .. L, with A_0 = X and rows as examples.

    With normalisation the hidden layers have A_l = phi_l(scale_l norm(A_{l-1} W_l) + b_l).

    Parameters
    ----------
    layer_sizes : sequence of int
        At least 2 numbers >= 1: inputs first, outputs last.
    hidden_activation : str, Activation, or list of them, default "relu"
        A name from `cymlp.activations.ACTIVATIONS` for all hidden layers, or a list with one for each.
    output_activation : str or Activation, default "identity"
    loss : str or Loss, optional
        A name from `cymlp.losses.LOSSES`.  None takes the cross-entropy for a softmax or sigmoid output, the Poisson
        loss for exp, else the squared error.
    initializer : str or callable, default "auto"
        A name from `cymlp.initializers.INITIALIZERS`; "auto" takes what suits each layer's activation; or a function
        ``f(rng, n_in, n_out, gain=...)`` returning an (n_in, n_out) array.  Biases start at zero, scales at one.
    gain : float, default 1.0
        Factor that the initialiser puts on the weights.
    dtype : {float32, float64}, optional
        In which everything is stored and computed; data are converted to it.  None lets the first data decide: float32
        data mean float32, anything else float64.  Until then parameters are float64.
    n_threads : int, optional
        The most threads of a call; None decides by the machine and the work.  Training takes fewer where that is
        faster, as on a busy machine.  The results do not depend on it.
    random_state : int, SeedSequence or Generator, optional
        Where the weights, and later the order of minibatches, come from.
    engine : {"compiled", "reference"}, default "compiled"
        "reference" computes with NumPy: slower, otherwise the same.
    normalization : str, BatchNorm, LayerNorm, or list of them, optional
        A name from `cymlp.normalizations.NORMALIZATIONS` or an instance from there for all hidden layers, or a list
        with one for each, None for a layer without.

    Raises
    ------
    ValueError, TypeError
        For an argument that is none of the above, or a loss that does not go with the output activation.

    Attributes
    ----------
    metadata : dict
        What `save` was given, for a network from `load`; else empty.

    Notes
    -----
    A hidden activation "identity" gives a UserWarning: that layer and the next one together are one linear layer.

    Course notes that put examples in columns read as ``X_notes = X.T``, ``W_notes = W.T``.

    Copying and pickling keep everything, for ``train(..., resume=True)`` the optimiser's state, too, unless an epoch is
    running.  Model files (`save`) do not hold it.

    Python threads that share an MLP take turns: while one trains, `predict`, `forward` and `gradients` in others wait
    for its epoch and then have the parameters of a whole one (`evaluate`: for each block of rows); with L-BFGS perhaps
    a point of a line search, and where an exception ends the epoch, those of that moment.  The reference leaves turns
    to its callers.  While another thread trains, setting parameters and a second `train` are RuntimeErrors.  So is use
    by a signal handler while its own thread is within an epoch, or another pass that changes the network.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> y = np.array([0, 1, 1, 0])
    >>> net = MLP([2, 8, 1], "tanh", "sigmoid", random_state=0, engine="reference")
    >>> history = net.train(X, y, epochs=500, batch_size=4, learning_rate=0.05)
    >>> net.predict(X).round().ravel()
    array([0., 1., 1., 0.])
    """

    def __init__(
        self,
        layer_sizes,
        hidden_activation="relu",
        output_activation="identity",
        loss=None,
        initializer="auto",
        gain=1.0,
        dtype=None,
        n_threads=None,
        random_state=None,
        engine="compiled",
        normalization=None,
    ):
        self._configure(
            layer_sizes, hidden_activation, output_activation, loss, n_threads, random_state, engine, normalization
        )
        self._warn_of_linear_layers()
        self._dtype_decided, self._dtype = dtype is not None, np.dtype(np.float64) if dtype is None else as_dtype(dtype)
        self._initializers, self._gain = [], gain
        try:
            self._flat = np.zeros(self._n_parameters, self._dtype)
            self._statistics = self._layout.first_statistics(self._dtype)
            self._draw(initializer, gain)
        except MemoryError as error:
            message = f"no memory for the {self._n_parameters:,} parameters that layer_sizes {list(layer_sizes)} make"
            raise MemoryError(message) from error

    def _draw(self, initializer, gain):
        views = self._layout.views(self._flat)
        for weights, scale, activation in zip(views.weights, views.scales, self._activations, strict=True):
            draw = initializers.get(initializer, activation.definition)
            drawn = draw(self._rng, *weights.shape, gain=gain)
            weights[:] = _validation.as_matrix(drawn, "initializer's weights", weights.shape[1], self._dtype)
            if scale is not None:
                scale[:] = 1
            name = activation.definition.initializer if initializer == "auto" else initializer
            self._initializers.append(name if isinstance(name, str) else getattr(name, "__name__", "callable"))

    @classmethod
    def from_weights(
        cls,
        coefs,
        intercepts,
        hidden_activation="relu",
        output_activation="identity",
        loss=None,
        n_threads=None,
        random_state=None,
        engine="compiled",
    ):
        """A network without normalisation, with parameters such as scikit-learn's ``coefs_`` and ``intercepts_``.

        Parameters
        ----------
        coefs : list of array-like (n_in, n_out)
            Weights of each layer.  If all weights and biases are float32, the network is; else it is float64.
        intercepts : list of array-like (n_out,)
            Biases of each layer.
        hidden_activation, output_activation, loss, n_threads, random_state, engine
            As in `MLP`.

        Returns
        -------
        MLP

        Raises
        ------
        ValueError, TypeError
            Where shapes do not chain, values are not finite real numbers, or another argument is wrong.

        Examples
        --------
        >>> MLP.from_weights([[[2.0], [3.0]]], [[1.0]], engine="reference").predict([[10.0, 100.0]])
        array([[321.]])
        """
        coefs, intercepts = _validation.as_list(coefs, "coefs"), _validation.as_list(intercepts, "intercepts")
        weights = [_validation.as_real_array(W, f"coefs[{i}]") for i, W in enumerate(coefs)]
        biases = [_validation.as_real_array(b, f"intercepts[{i}]") for i, b in enumerate(intercepts)]
        sizes = chained_sizes(weights, "coefs")
        network = cls.__new__(cls)
        network._configure(sizes, hidden_activation, output_activation, loss, n_threads, random_state, engine)
        network._warn_of_linear_layers()
        network._dtype_decided = True
        single = all(array.dtype.kind == "f" and array.dtype.itemsize == 4 for array in (*weights, *biases))
        network._dtype = np.dtype(np.float32 if single else np.float64)
        network._initializers = ["given"] * len(weights)
        flat = np.empty(network._n_parameters, network._dtype)
        views = network._layout.views(flat)
        network._fill(views.weights, weights, "coefs")
        network._fill(views.biases, biases, "intercepts")
        network._flat, network._statistics = flat, np.empty(0, flat.dtype)
        return network

    def train(
        self,
        X,
        y=None,
        *,
        epochs=10,
        batch_size=32,
        optimizer="adam",
        learning_rate=None,
        shuffle=True,
        sample_weight=None,
        class_weight=None,
        label_smoothing=0.0,
        validation_data=None,
        metric=None,
        dropout=0.0,
        alpha=0.0,
        l1=0.0,
        l2=0.0,
        max_norm=None,
        penalize_biases=False,
        clip_value=None,
        clip_norm=None,
        clip_layer_norm=None,
        stopping=None,
        max_time=None,
        callback=None,
        checkpoint=None,
        resume=False,
        health=False,
    ):
        """Fit the parameters by minibatch gradient descent, or by L-BFGS over the whole data.

        Parameters
        ----------
        X, y, sample_weight
            As in `gradients`.  Memory maps, and arrays that would have to be copied into more than 256 MB, are read and
            checked batch by batch.  With y left out, X is an iterable of batches ``(X, y)`` or
            ``(X, y, sample_weight)``, each one step, and comes to an end; an iterator gives one epoch, whatever
            `epochs` is.
        epochs : int, default 10
            Passes over the data; iterations for optimizer="lbfgs".
        batch_size : int, default 32
            Rows of a minibatch; the last one of an epoch takes what is left.  Not read by "lbfgs", or with batches.
        optimizer : str or optimiser, default "adam"
            A name from `cymlp.optimizers.OPTIMIZERS`, or an instance from there.
        learning_rate : float or schedule, optional
            In place of the default that goes with the optimiser's name.  A schedule is one from `cymlp.schedules`, or
            any callable that gives the rate for the number of steps done so far, over resumed calls, too.
        shuffle : {True, False, "stratified", "weighted"}, default True
            The order in which each epoch takes the rows: a new random one; as they are; random, but with about the same
            mix of classes in each minibatch; or as many draws with replacement as there are rows, with probabilities
            in proportion to the weights of rows (and of their classes), which the loss then does not have.  With
            batches it is that of the iterable.
        class_weight : "balanced" or dict, optional
            Factors on the weights of rows by label, 1 for those not in the dict; "balanced" divides the number of rows
            by the number of classes and that of the rows of the class.  For a softmax output, or one sigmoid unit.
        label_smoothing : float, default 0.0
            In [0, 1).  Behind a softmax output of k units targets become (1 - e) y + e / k, behind a sigmoid
            (1 - e) y + e / 2.  Not for validation data.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Whose mean loss, without penalties, is computed after each epoch.
        metric : callable, optional
            ``metric(y, outputs) -> float``, called after each epoch with the y of `validation_data` as they were given
            and what `predict` gives for X.
        dropout : float, schedule or list of them, default 0.0
            The probability, in [0, 1], with which an output of a hidden layer is 0 in a step of training; the others
            are divided by 1 - p.  In a list, the first one is that of the inputs, then one for each hidden layer.
        alpha, l1, l2 : float, default 0.0
            Penalties on weights that are added to the loss of each minibatch: alpha / (2 s) sum w^2, where s is the sum
            of its rows' weights (scikit-learn's, which depends on the batch size), l1 sum |w|, and l2 / 2 sum w^2.
            Decoupled weight decay is a parameter of the optimiser.
        max_norm : float, optional
            After each step the incoming weights of a unit are scaled down to this Euclidean norm where theirs is more.
        penalize_biases : bool, default False
            Whether penalties and weight decay are for biases, and scales of normalisation, too.
        clip_value, clip_norm, clip_layer_norm : float, optional
            At most one of them, greater than 0.  Limits the gradient of each minibatch's loss, before penalties: each
            element, the Euclidean norm of all, or of each layer.  With infinity for a norm, it is measured only.
        stopping : EarlyStopping, optional
            From `cymlp.stopping`.
        max_time : float, optional
            Seconds.  The epoch in which they end is not shown: the network keeps the last whole one.
        callback : callable or list of them, optional
            Called as ``callback(event)`` after each epoch, with ``event.epoch`` (from 1), ``.epochs``, ``.step``,
            ``.loss``, ``.validation_loss``, ``.metric``, ``.learning_rate``, ``.gradient_norm``, ``.seconds``,
            ``.network`` and ``.history``, None where there is none; training stops where one returns True.  Methods
            ``begin(event)`` and ``end(event)`` of it are called before the first epoch, and at the end, however it
            comes.
        checkpoint : Checkpoint, optional
            Where the state of the run is written now and then, and taken up from.
        resume : bool, default False
            Continue with the optimiser's state of the previous call, if there is one, rather than from zeros.
        health : bool or int, default False
            Whether layers are watched: ``history.health`` then is a report on them, also while training goes on, and
            after it diverged.  An integer k: in every k-th step instead of every 256th, a few hundred in all; the first
            ones lie closer together, later ones further apart.  Watching changes no bit of the results.

        Returns
        -------
        History
            ``.loss``, ``.validation_loss``, ``.metric``, ``.learning_rate``, ``.gradient_norm`` and ``.seconds`` (lists
            with one number for each epoch, or empty), ``.epochs``, ``.best_epoch``, ``.stopped``, which says why
            training ended, and ``.health``.  The loss of an epoch is the mean over its rows, each taken when its
            minibatch was used.

        Raises
        ------
        ValueError, TypeError
            For wrong arguments; nothing has been changed then.  For bad rows of what is read batch by batch, and for a
            bad value of a schedule, when it comes to that.
        DivergenceError
            Where the loss or the parameters stop being finite.
        RuntimeError
            Where `train` is at work on this network already, here or in another thread; for a StopIteration of the
            callback.

        Notes
        -----
        When an exception ends the call, KeyboardInterrupt included, the network has the parameters of the last whole
        epoch, ``history_`` tells the epochs so far, and the optimiser's state is forgotten unless the callback raised.
        "lbfgs" takes neither dropout, batch normalisation, l1, max_norm, clipping, batches nor checkpoints.

        Each optimiser and schedule names its source.  Dropout: Srivastava et al. (2014), section 10 for the scaling,
        appendix A.2 for max_norm.  Clipping: Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent
        neural networks, algorithm 1.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 64).reshape(-1, 1)
        >>> net = MLP([1, 1], random_state=0, engine="reference")
        >>> net.train(X, 3 * X + 1, epochs=100, batch_size=8, optimizer="sgd", learning_rate=0.1).epochs
        100
        >>> net.parameters.round(3)
        array([3., 1.])
        """
        from . import training

        return training.train(
            self,
            X,
            y,
            sample_weight,
            validation_data,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            shuffle=shuffle,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            metric=metric,
            dropout=dropout,
            alpha=alpha,
            l1=l1,
            l2=l2,
            max_norm=max_norm,
            penalize_biases=penalize_biases,
            clip_value=clip_value,
            clip_norm=clip_norm,
            clip_layer_norm=clip_layer_norm,
            stopping=stopping,
            max_time=max_time,
            callback=callback,
            checkpoint=checkpoint,
            resume=resume,
            health=health,
        )

    def save(self, path, metadata=None):
        """Write the network to a file: safetensors with a checksum, replaced as a whole or not at all.

        Parameters
        ----------
        path : str or path-like
        metadata : dict, optional
            What JSON can hold: None, bool, int, finite float, str, lists (tuples become lists) and dicts with str keys.
            None keeps the `metadata` that the network was loaded with.

        Raises
        ------
        TypeError, ValueError
            For metadata that JSON cannot hold.
        OSError
            Where the file cannot be written; what was at `path` is as it was.

        Notes
        -----
        The file holds architecture, dtype, parameters and statistics; not the optimiser's state, `random_state` or
        `history_`.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/net.safetensors"
        >>> MLP([2, 1], engine="reference").save(path, metadata={"inputs": ["height", "width"]})
        >>> MLP.load(path, engine="reference").metadata
        {'inputs': ['height', 'width']}
        """
        from . import persistence

        persistence.save(path, self, self.metadata if metadata is None else metadata)

    @classmethod
    def load(cls, path, n_threads=None, engine="compiled"):
        """Read a network from a file that `save` wrote; nothing in the file is ever executed.

        Parameters
        ----------
        path : str or path-like
        n_threads, engine
            As in `MLP`.

        Returns
        -------
        MLP
            With what `save` was given in ``metadata``; its random numbers start from fresh entropy.

        Raises
        ------
        ValueError
            For any file that is not a whole model file, naming the file and what is wrong with it.
        OSError
            Where the file cannot be read.
        """
        from . import persistence

        model = persistence.load(path)
        network = cls._around(
            model.parameters,
            model.layer_sizes,
            model.activations,
            model.loss,
            n_threads,
            engine,
            normalizations=model.normalizations,
            statistics=model.statistics,
        )
        network.metadata = model.metadata
        return network
