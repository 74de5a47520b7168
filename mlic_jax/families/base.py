"""What every codec of this package is made of: a `Family` states the rules once, its subclasses the methods.

    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Mine(Family):
        module: nn.Module

        def trace(self): ...                                   shapes of parameters and state
        def training_only(self, key): ...                      what artifacts lack of these, if anything
        def objectives(self): ...                              what trains them
        def estimate_at(self, params, state, image, quality): ...
        def tabulate(self, variables, images): ...             what an artifact has beside the parameters
        def check_state(self, artifact): ...
        def encode(self, artifact, image, quality, effort, importance): ...
        def decode(self, artifact, chunks, size, quality): ...

    Mine(model="mine", architecture={...}, qualities=OneRate(), module=module).codec()

The rules are those about quality, effort, importance maps and numbers of chunks; that an artifact's arrays fit its
model, which is checked once per artifact; that parameters' shapes come from tracing. Everything that `codec()` hands
out is a pure function of its arguments and of the fields: nothing in a Family changes but its memory of artifacts that
were checked.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mlic_jax.codec import Chunks, Codec, Networks, Objective, Params, State, Traits
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.importance import importance_map
from mlic_jax.families.quality import Qualities
from mlic_jax.fileformat import model_names
from mlic_jax.fileformat.artifact import Artifact, check_arrays
from mlic_jax.layers import init as initialisers


class _WhenAsked(Mapping):
    """A mapping that is made when it is first looked into."""

    def __init__(self, make):
        self._make = functools.cache(make)

    def __getitem__(self, key):
        return self._make()[key]

    def __iter__(self):
        return iter(self._make())

    def __len__(self):
        return len(self._make())


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """Base of codecs. Equal to itself only: `zoo.make` gives the same one for the same arguments.

    Attributes:
      model: its name in the zoo.
      architecture: keyword arguments of its factory that rebuild it; an artifact stores them.
      qualities: the rule about quality, see mlic_jax.families.quality.
      efforts, extension, progressive, guided, portable: see mlic_jax.codec.Traits.
    """

    model: str
    architecture: Mapping[str, Any]
    qualities: Qualities
    efforts: int = 0
    extension: str | None = None
    progressive: bool = False
    guided: bool = False
    portable: bool = True
    _checked: weakref.WeakSet = dataclasses.field(default_factory=weakref.WeakSet, init=False, repr=False)

    # ------------------------------------------------------------------ what a subclass gives

    def trace(self) -> Mapping[str, Any]:
        """{"params": .., "state": ..}: the shapes, as boxes of mlic_jax.layers.init where values are not zero.

        "state" may be left out. Called once.
        """
        raise NotImplementedError

    def training_only(self, key: jax.Array) -> Mapping[str, Any]:
        """{"params": .., "state": ..} of what objectives have besides, a discriminator or the like: initial values, as
        Flax's `init` gives them, under names of modules that are none of the model's. "state" may be left out.

        It is trained, averaged and checkpointed as all the rest, and artifacts lack it.
        """
        del key
        return {}

    def objectives(self) -> Mapping[str, Objective]:
        """Name -> Objective."""
        raise NotImplementedError

    def estimate_at(self, params: Params, state: State, image: jax.Array, quality: float | None) -> dict[str, Any]:
        """As `Codec.estimate`, at one quality as the rule settles it; None where a rule validates none by itself."""
        raise NotImplementedError

    def tabulate(self, variables: Mapping[str, Any], images: Sequence[np.ndarray] | None):
        """(state, tables) of an artifact, from {"params", "state"} of training in NumPy."""
        del images
        return variables["state"], {}

    def check_state(self, artifact: Artifact) -> None:
        """Raises ModelError unless an artifact's state and tables are what decoding needs."""
        check_arrays(nn.meta.unbox(self.boxed.get("state", {})), artifact.state, artifact.model)

    def encode(
        self, artifact: Artifact, image: np.ndarray, quality: float | None, effort: int, importance: np.ndarray | None
    ) -> Chunks:
        """The chunks of a picture uint8 [H, W, 3]; all arguments are checked."""
        raise NotImplementedError

    def decode(self, artifact: Artifact, chunks: Chunks, size: tuple[int, int], quality: float | None) -> np.ndarray:
        """uint8 [H, W, 3] of chunks; all arguments but the chunks' content are checked. Raises CorruptStreamError."""
        raise NotImplementedError

    def networks(self) -> Networks | None:
        """See Codec."""
        return None

    def kmac_per_pixel(self) -> dict[str, float] | None:
        """See Codec."""
        return None

    def initial_state(self, key: jax.Array) -> State:
        """The state before training."""
        return initialisers.materialise(self.boxed.get("state", {}), key)

    # ------------------------------------------------------------------ what they all do

    def codec(self) -> Codec:
        """The tuple of functions that the rest of the package knows."""
        # Who owns what is found by tracing, which would be half of the time that a small picture takes to decode.
        objectives = _WhenAsked(self.objectives)
        functions = self.init, objectives, self.estimate, self.export, self.compress, self.decompress
        return Codec(*functions, self.traits(), self.networks(), self.kmac_per_pixel)

    def traits(self) -> Traits:
        rule = self.qualities
        own = self.efforts, self.extension, self.progressive, self.guided, self.portable
        return Traits(rule.ladder, rule.default, rule.range, *own)

    @functools.cached_property
    def boxed(self) -> Mapping[str, Any]:
        """What `trace` gave."""
        return self.trace()

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> tuple[Params, State]:
        """See Codec. Raises UsageError where `training_only` has names of the model."""
        del image_shape  # no parameter depends on the size of pictures
        params = initialisers.materialise(self.boxed["params"], key)
        state = self.initial_state(jax.random.fold_in(key, 1))
        names = self._of_training
        if clash := names.intersection([*params, *state]):
            raise UsageError(f"{self.model}: what training alone has needs other names than {', '.join(sorted(clash))}")
        if not names:
            return params, state
        more = jax.device_get(nn.meta.unbox(jax.jit(self.training_only)(jax.random.fold_in(key, 2))))
        return {**params, **more.get("params", {})}, {**state, **more.get("state", {})}

    @functools.cached_property
    def _of_training(self) -> frozenset[str]:
        """Top-level names of parameters and state that artifacts lack."""
        shapes = jax.eval_shape(self.training_only, jax.random.key(0))
        return frozenset(name for names in shapes.values() for name in names)

    def estimate(self, params: Params, state: State, image: jax.Array, quality: float | None = None) -> dict[str, Any]:
        """See Codec."""
        if quality is not None or not self.qualities.several:
            return self.estimate_at(params, state, image, self.qualities.for_file(self.model, quality))
        if not self.qualities.validated:
            return self.estimate_at(params, state, image, None)
        parts = [self.estimate_at(params, state, image, quality) for quality in self.qualities.validated]
        return {**parts[len(parts) // 2], "loss": sum(part["loss"] for part in parts) / len(parts)}

    def export(self, params: Params, state: State, images: Sequence[np.ndarray] | None = None) -> Artifact:
        """See Codec. Raises ModelError for parameters of other shapes, or that are not finite."""
        kept = {
            kind: {name: values for name, values in tree.items() if name not in self._of_training}
            for kind, tree in (("params", params), ("state", state))
        }
        variables = jax.device_get(kept)
        self.check_params(variables["params"])
        state, tables = self.tabulate(variables, images)
        card = {} if self.portable else {"portable": False}
        return Artifact(self.model, self.architecture, variables["params"], state, tables, card)

    def compress(
        self,
        artifact: Artifact,
        image: np.ndarray,
        quality: float | None = None,
        effort: int = 0,
        importance: np.ndarray | None = None,
    ) -> Chunks:
        """See Codec."""
        quality = self.qualities.for_file(self.model, quality)
        if effort not in range(self.efforts + 1):
            known = f"the efforts 0 to {self.efforts}, not {effort}" if self.efforts else "no effort but 0"
            raise UsageError(f"{self.model} has {known}")
        image = np.asarray(image)
        importance = self.check_importance(importance, image.shape[:2])
        self.check(artifact)
        return self.encode(artifact, image, quality, effort, importance)

    def decompress(
        self, artifact: Artifact, chunks: Chunks, size: tuple[int, int], quality: float | None = None
    ) -> np.ndarray:
        """See Codec."""
        quality = self.qualities.of_file(self.model, quality)
        if not self.progressive and len(chunks) != 1:
            raise CorruptStreamError(f"{self.model} writes one chunk, the file has {len(chunks)}")
        self.check(artifact)
        return self.decode(artifact, chunks, tuple(size), quality)

    # ------------------------------------------------------------------ checks

    def check(self, artifact: Artifact) -> None:
        """Raises ModelError unless the artifact is one of this model: of each artifact once, as that takes time.

        It takes a third of a first picture, which weights that are known need not wait for: tests check them.
        """
        if artifact not in self._checked:
            if model_names.by_fingerprint(artifact.fingerprint) is None:
                self.check_params(artifact.params)
                self.check_state(artifact)
            self._checked.add(artifact)

    def check_params(self, params: Params) -> None:
        """Raises ModelError unless they are finite float32 arrays with the names and shapes that the model needs."""
        check_arrays(nn.meta.unbox(self.boxed["params"]), params, self.model)

    def check_importance(self, importance, size: tuple[int, int]) -> np.ndarray | None:
        """A user's map as float32 [H, W] in 0..1. Raises UsageError where the codec takes none, InputError for one of
        another size or kind."""
        if importance is not None and not self.guided:
            raise UsageError(f"this model of {self.model} takes no importance map")
        return importance_map(importance, size)
