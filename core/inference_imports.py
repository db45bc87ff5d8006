"""Transformers for a process that only infers: what compiles, shards and trains is not imported with it.

Importing and loading one model of transformers 5 takes torch's compiler along (dynamo, inductor), its distributed
tensors and SciPy, for decorators and branches that inference on a CPU never takes: 60 MB and 1.5 s of every start. So
dynamo has a stand-in. It knows the few decorators that mark functions for a compiler; whoever asks for anything else,
or for a module of it, gets the real one, imported then. Not for a process that trains or has a GPU.

Torch's operators on tensors without memory are left for later too, but for those written in C++. A model is built of
such tensors before its weights are read, and through the others it takes SymPy along, 0.7 s together. Where one of them
is missing, `load` gets them; `take_whole_torch` does once the process is ready.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeVar

import structlog

log = structlog.stdlib.get_logger(__name__)

Model = TypeVar("Model")

MODELS = ("bert.modeling_bert", "llama.modeling_llama", "auto.modeling_auto")
_DYNAMO = "torch._dynamo"
_TRACING = f"{_DYNAMO}._trace_wrapped_higher_order_op"
_METAS = "torch._meta_registrations"
_METAS_LOCK = threading.RLock()
_UNUSED = (
    "is_accelerate_available",
    "is_scipy_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)


def import_for_inference() -> bool:
    """Import the models of the embedded default, before anything else does; False: whatever they ask for is imported.

    Where a release of transformers cannot be imported so, it is imported again without stand-ins.
    """
    first = "torch" not in sys.modules
    if first:
        _leave_out_metas()
    import torch

    if "transformers.modeling_utils" in sys.modules or _DYNAMO in sys.modules or torch.cuda.is_available():
        if first:
            take_whole_torch()
        return False
    stand_in = _DynamoLater()
    try:
        with _less_available():
            for name in MODELS:
                importlib.import_module(f"transformers.models.{name}")
    except (ImportError, AttributeError, TypeError) as error:
        log.warning("imports.not_for_inference", reason=str(error))
        stand_in.step_aside()
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
            del sys.modules[name]
        return False
    return True


def load(model: Callable[[], Model]) -> Model:
    """What `model` gives, a call that builds and loads one; again with all of torch's operators if one was missing."""
    try:
        return model()
    except NotImplementedError as error:
        if not take_whole_torch():
            raise
        log.info("imports.metas", reason=str(error).partition("\n")[0][:200])
        return model()


def _leave_out_metas() -> None:
    module = ModuleType(_METAS)

    def of_the_real_one(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        take_whole_torch()
        return getattr(sys.modules[_METAS], name)

    module.__dict__.update(__getattr__=of_the_real_one)
    sys.modules[_METAS] = module


def take_whole_torch() -> bool:
    """Import the operators that were left out; generators of random numbers need them too. False: all is there.

    Whoever needs them calls it again: the second call waits for the first, or costs nothing.
    """
    with _METAS_LOCK:
        standing = sys.modules.get(_METAS)
        if standing is None or getattr(standing, "__spec__", None) is not None:
            return False
        del sys.modules[_METAS]
        importlib.import_module(_METAS)
        return True


class _DynamoLater(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for `torch._dynamo` until something of it is needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._package, tracing = ModuleType(_DYNAMO), ModuleType(_TRACING)
        self._package.__path__ = []
        self._package.__dict__.update(
            dict.fromkeys(("assume_constant_result", "disable", "allow_in_graph"), _as_it_is),
            __getattr__=self._of_the_real_one,
        )
        tracing.__dict__.update(TransformGetItemToIndex=_TransformLater)
        self._standing = {_DYNAMO: self._package, _TRACING: tracing}
        sys.modules.update(self._standing)
        sys.meta_path.insert(0, self)

    def step_aside(self) -> None:
        """From now on an import finds the real one."""
        with self._lock:
            for name, module in self._standing.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A module of dynamo is wanted: import dynamo, which may import it already."""
        if not fullname.startswith(f"{_DYNAMO}."):
            return None
        self._real()
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The real one."""
        return importlib.import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed."""

    def _of_the_real_one(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        take_whole_torch()  # before it: the two import one another
        with self._lock:
            self.step_aside()
            return importlib.import_module(_DYNAMO)


class _TransformLater:
    """A context manager of dynamo's that a trace enters and inference does not."""

    def __enter__(self) -> Any:
        self._real = importlib.import_module(_TRACING).TransformGetItemToIndex()
        return self._real.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._real.__exit__(*error)


def _as_it_is(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """As a decorator, with arguments or without: what it decorates."""
    return (lambda decorated: decorated) if function is None else function


@contextlib.contextmanager
def _less_available() -> Iterator[None]:
    """Transformers asks at its import which libraries are there; some are not, for this process."""
    from transformers import utils
    from transformers.utils import import_utils

    with contextlib.ExitStack() as stack:
        for name in _UNUSED:
            for module in (utils, import_utils):
                if hasattr(module, name):
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, lambda *_, **__: False)
        yield
