"""A Flax module as the forward pass of a step: randomness from the step's key, what is frozen as it was."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.errors
import flax.linen as nn

from jaxtl.errors import InputError, kind_of
from jaxtl.trees import Tree, named_leaves

# The names by which modules are told that they are not trained, as arguments or attributes.
EVALUATED = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}

_OTHER_MODEL = (
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ApplyScopeInvalidVariablesStructureError,
)
_NO_STATE = (
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ScopeVariableNotFoundError,
    flax.errors.ModifyScopeVariableError,
)


def as_forward(model: nn.Module, *fields: str) -> Callable[..., tuple[dict[str, Any], Tree]]:
    """A Flax module as the forward(params, model_state, batch, ctx) that `losses.make_loss_fn` takes.

    Dropout and whatever else draws random numbers draws them from `ctx.rng`. A module all of whose parameters are in
    `ctx.frozen` is run as in evaluation, so that it computes what it computed: its batch statistics are used and do not
    move, and it drops nothing.

    Args:
        model: called with batch[field] for every field, in their order, and `ctx.train`; returns a dict, {"head":
            logits, ...}. Arrays come as they are in the batch: tokens as integers.
        fields: of the batch; where none is named, what the module says (`fields`), or "image".

    Raises:
        InputError: no module, or one of other arguments; on use: a batch without the field, parameters or a state of
            another model, outputs that are no dict.

    Example:
        >>> import jax
        >>> from jaxtl.models import Classifier, Mlp, initialise
        >>> from jaxtl.step import Context
        >>> model = Classifier(Mlp((4,)), (("head", 3),))
        >>> params = initialise(model, jax.random.key(0), (2,))
        >>> outputs, _ = as_forward(model)(params, {}, {"image": jax.numpy.ones((5, 2))}, Context(0, None, {}, {}))
        >>> outputs["head"].shape
        (5, 3)
    """
    fields = fields or getattr(model, "fields", ("image",))
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{kind_of(model)} is no Flax module", where="as_forward model", todo="pass an instance of one"
        )
    try:
        inspect.signature(model.__call__).bind(*fields, True)
    except TypeError:
        asked = "images" if fields == ("image",) else ", ".join(fields)
        what = f"{type(model).__name__} is not called with ({asked}, train)"
        raise InputError(what, where="as_forward model", todo="give its __call__ these arguments") from None

    def forward(params, model_state, batch, ctx):
        for field in fields:
            if not isinstance(batch, Mapping) or batch.get(field) is None:
                holds = f"it holds {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else "make it a dict"
                raise InputError(f"{kind_of(batch)} without '{field}'", where="the batch", todo=holds)
        inputs = [batch[field] for field in fields]
        if "params" in model_state:
            todo = "leave them out, or they would hide what is trained: initial_model_state(model, shape)"
            raise InputError("holds parameters", where="model_state", todo=todo)
        variables, rngs = {"params": params, **model_state}, None if ctx.rng is None else {"params": ctx.rng}
        with _frozen_evaluated(params, ctx.frozen), _told(model):
            outputs, state = model.apply(variables, *inputs, ctx.train, rngs=rngs, mutable=list(model_state))
        if not isinstance(outputs, Mapping):
            todo = 'return {"head": logits}, which mean_of reads by that name'
            raise InputError(f"returns {kind_of(outputs)}, no dict", where=f"{type(model).__name__}", todo=todo)
        return outputs, state

    return forward


@contextlib.contextmanager
def _told(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except (*_OTHER_MODEL, *_NO_STATE) as error:
        what = str(error).partition(" (https")[0]
        todo = "train the parameters that initialise(model, ...) made"
        if isinstance(error, _NO_STATE):
            todo = "pass what it carries along: init_state(params, tx, rng, initial_model_state(model, shape))"
        raise InputError(what, where=type(model).__name__, todo=todo) from error


@contextlib.contextmanager
def _frozen_evaluated(params: Tree, frozen: frozenset[str]) -> Iterator[None]:
    """Modules that hold frozen parameters and no others are told that they are not trained, and all within them."""
    if not frozen:
        yield
        return
    paths = named_leaves(params).keys()

    def held(module: nn.Module) -> bool:
        prefixes = ("".join(f"{name}/" for name in module.path[:depth]) for depth in range(len(module.path) + 1))
        inside = ([path for path in paths if path.startswith(prefix)] for prefix in prefixes)
        return any(own and frozen.issuperset(own) for own in inside)

    def interceptor(method, args, kwargs, context):
        if context.method_name == "setup" or not held(context.module):
            return method(*args, **kwargs)
        called = inspect.signature(getattr(context.module, context.method_name)).bind(*args, **kwargs)
        called.arguments.update({name: EVALUATED[name] for name in EVALUATED.keys() & called.arguments.keys()})
        with _attributes_evaluated(context.module):
            return method(*called.args, **called.kwargs)

    with nn.intercept_methods(interceptor):
        yield


@contextlib.contextmanager
def _attributes_evaluated(module: nn.Module) -> Iterator[None]:
    """What a module was told when it was made: it lives for this call only, and cannot be made again under its name."""
    made = {name: getattr(module, name) for name in EVALUATED.keys() & module.__dataclass_fields__.keys()}
    made = {name: value for name, value in made.items() if value is not None}
    for name in made:
        object.__setattr__(module, name, EVALUATED[name])
    try:
        yield
    finally:
        for name, value in made.items():
            object.__setattr__(module, name, value)
