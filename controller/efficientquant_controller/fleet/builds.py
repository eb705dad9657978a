"""Makes artifacts: the only user of the quantization library, which runs in a child process of its own."""

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from efficientquant.errors import EfficientQuantError
from efficientquant.errors import UserError as LibraryUserError
from efficientquant.recipe import get_recipe

from efficientquant_controller.errors import FleetError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.model import Artifact, Weights

# Weights and calibration images are drawn with it, so that the same request makes the same artifact anywhere.
BUILD_SEED = 0


LOG = logging.getLogger(__name__)


class BuildError(FleetError):
    """An artifact could not be made, through no fault of the request."""


def canonical_recipe(text: str) -> str:
    """The one name of what `text` asks for: only options that change the recipe, sorted, e.g. `int8:scope=conv`.

    Raises the library's UserError for a recipe or an option that does not exist.
    """
    recipe = get_recipe(text)
    base = get_recipe(text.partition(":")[0])
    own, usual = recipe.to_dict()["options"], base.to_dict()["options"]
    changed = [f"{key}={'none' if own[key] is None else own[key]}" for key in sorted(own) if own[key] != usual[key]]
    return ":".join([base.name, *changed])


def build_key(model: str, recipe: str, weights: Weights) -> str:
    """The name under which an equal request finds the artifact made before (hex SHA-256)."""
    import efficientquant

    # A checkpoint is its content, whatever the file was called.
    identity = {"kind": weights.kind, "sha256": weights.sha256}
    request = {
        "model": model,
        "recipe": get_recipe(recipe).to_dict(),
        "weights": identity,
        "seed": BUILD_SEED,
        "library": efficientquant.__version__,
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Builder:
    """Runs the library in one child process, started when needed and ended when nothing is left to do.

    torch would otherwise stay in the controller's memory all night, and a crash in native code would end it.
    """

    def __init__(self, artifacts: ContentStore, checkpoints: ContentStore) -> None:
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._pool: ProcessPoolExecutor | None = None
        self._waiting = 0

    def canonical_recipes(self, recipes: tuple[str, ...]) -> tuple[str, ...]:
        """The recipes by their canonical names, each once; raises UserError for one that does not exist."""
        try:
            return tuple(dict.fromkeys(canonical_recipe(one) for one in recipes))
        except LibraryUserError as error:
            raise UserError(str(error)) from error

    async def check_models(self, models: tuple[str, ...], weights: Weights) -> None:
        """Load every model with its weights once; raises UserError for what the user got wrong."""
        source = self._source(weights)
        for model in models:
            await self._call(_load, model, source, weights.filename)

    async def build(self, model: str, recipe: str, weights: Weights) -> Artifact:
        """Quantize, export and check one model; the file is in the artifact store when this returns."""
        path = self._artifacts.scratch(".onnx")
        try:
            made = await self._call(_build, model, recipe, self._source(weights), weights.filename, path)
            sha256, size = await asyncio.to_thread(self._artifacts.adopt, path, made.pop("sha256"))
        finally:
            path.unlink(missing_ok=True)
        return Artifact(sha256=sha256, size_bytes=size, model=model, recipe=recipe, weights=weights.label, **made)

    def close(self) -> None:
        """End the child process, whatever it does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            # Python would wait for the child at exit; Executor.terminate_workers only exists from 3.14.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)

    def _source(self, weights: Weights) -> str | Path:
        return self._checkpoints.path(weights.sha256) if weights.kind == "checkpoint" else weights.kind

    async def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # fork would copy gRPC's threads half
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_die_with_parent)
        self._waiting += 1
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
            answer.add_done_callback(_look_at)
            await asyncio.wait({answer})
            return self._answered(answer)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._end_when_idle()

    def _answered(self, answer: asyncio.Future[Any]) -> Any:
        """The child's answer; whatever it raised that is not for the user ends this one build, not the campaign."""
        error = answer.exception()
        if error is None or isinstance(error, FleetError):
            return answer.result()
        if isinstance(error, BrokenProcessPool):
            self._pool = None
            raise BuildError("the build process died (out of memory, or a crash in native code)") from error
        LOG.error("a build failed unexpectedly", exc_info=error)
        raise BuildError(f"{type(error).__name__}: {error} (a bug; the controller's log has the traceback)") from error

    def _end_when_idle(self, after_s: float = 20.0) -> None:
        """End the child when nobody asked for anything in a while; starting it costs seconds, keeping it a GiB."""

        def end() -> None:
            if self._pool is not None and not self._waiting:
                self._pool.shutdown(wait=False)
                self._pool = None

        asyncio.get_running_loop().call_later(after_s, end)


def _look_at(answer: asyncio.Future[Any]) -> None:
    """A build that nobody waits for any more (cancelled, or the controller goes down) may fail without a word."""
    if not answer.cancelled():
        answer.exception()


def _die_with_parent() -> None:
    """End this child when the controller is killed: a queue it waits on would never tell it."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _load(model: str, source: str | Path, filename: str) -> None:
    _create(model, source, filename)


def _create(model: str, source: str | Path, filename: str) -> Any:
    from efficientquant import create_model

    try:
        return create_model(model, source, seed=BUILD_SEED)
    except LibraryUserError as error:
        # The user knows the checkpoint by its own name, not by where we keep it.
        sentence = str(error).replace(str(source), filename) if filename else str(error)
        raise UserError(sentence) from None


def _build(model: str, recipe: str, source: str | Path, filename: str, path: Path) -> dict[str, Any]:
    from efficientquant import export_onnx, quantize

    created = _create(model, source, filename)
    chosen = get_recipe(recipe)
    try:
        quantized = quantize(created, chosen)
        exported = export_onnx(quantized, path)
    except LibraryUserError as error:
        raise UserError(str(error)) from None
    except EfficientQuantError as error:
        raise BuildError(str(error)) from None
    return {
        "sha256": exported.sha256,
        "recipe_version": chosen.version,
        "parity_max_abs": exported.parity_max_abs,
        "notes": tuple(exported.notes),
        "provenance": {"recipe": chosen.to_dict(), **quantized.provenance},
        "manifest": exported.manifest,
    }
