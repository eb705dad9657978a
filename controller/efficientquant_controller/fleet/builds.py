"""Makes artifacts: the only user of the quantization library, which runs in a child process of its own."""

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientquant.errors import EfficientQuantError, MissingExtraError
from efficientquant.errors import UserError as LibraryUserError
from efficientquant.recipe import get_recipe
from efficientquant.targets import get_target

from efficientquant_controller.errors import FleetError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import Artifact, Calibration, Device, Weights

# Weights and calibration images are drawn with it, so that the same request makes the same artifact anywhere.
BUILD_SEED = 0
# Raise it when an equal request makes more than before: what was made before is then made again.
BUILD_VERSION = 3
CALIBRATION_IMAGES = 32
# A sample of 32 photographs takes a tenth of it; an archive that claims more would fill the disk.
MAX_UNPACKED_BYTES = 1 << 30

LOG = logging.getLogger(__name__)


class BuildError(FleetError):
    """An artifact could not be made, through no fault of the request."""


class BuildProcessError(BuildError):
    """The process that makes artifacts died."""


def canonical_recipe(text: str) -> str:
    """The one name of what `text` asks for: only options that change the recipe, sorted, e.g. `int8:scope=conv`.

    Raises the library's UserError for a recipe or an option that does not exist.
    """
    recipe = get_recipe(text)
    base = get_recipe(text.partition(":")[0])
    own, usual = recipe.to_dict()["options"], base.to_dict()["options"]
    changed = [f"{key}={'none' if own[key] is None else own[key]}" for key in sorted(own) if own[key] != usual[key]]
    return ":".join([base.name, *changed])


@dataclass(frozen=True)
class Source:
    """What an artifact is made from besides a model's name and a recipe."""

    weights: Weights
    calibration: Calibration | None = None


def build_key(model: str, recipe: str, target: str, source: Source) -> str:
    """The name under which an equal request finds the artifact made before (hex SHA-256)."""
    import efficientquant

    # A checkpoint is its content, whatever the file was called.
    identity = {"kind": source.weights.kind, "sha256": source.weights.sha256}
    chosen = get_recipe(recipe)
    # Also for recipes that are not calibrated: the reference inputs are the user's images.
    images = source.calibration.sha256 if source.calibration else None
    request = {
        "version": BUILD_VERSION,
        "model": model,
        "recipe": chosen.to_dict(),
        "target": target,
        "weights": identity,
        "calibration": images,
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

    def check_targets(self, devices: Sequence[tuple[Device, Variant]]) -> None:
        """Raise UserError for a device whose target artifacts cannot be lowered for."""
        for device, variant in devices:
            try:
                get_target(variant.target)
            except LibraryUserError as error:
                backend = device.snapshot.backend(variant.backend)
                raise UserError(
                    f"device '{device.name}' would run '{variant.backend}', which builds from the form "
                    f"'{backend.form if backend else ''}', and its artifacts cannot be made: {error}; name another of "
                    "its backends with --backend, or leave the device out with --devices"
                ) from error

    def check_calibration(self, calibration: Calibration | None) -> None:
        """Raise UserError for images that were not uploaded, or of no format that is read."""
        if calibration is not None:
            self._checkpoints.path(calibration.sha256)
            if not calibration.filename.endswith((".zip", ".npz")):
                raise UserError(f"{calibration.filename} is neither a .zip of images nor an .npz; send one of these")

    async def check_models(self, models: tuple[str, ...], weights: Weights) -> None:
        """Load every model with its weights once; raises UserError for what the user got wrong."""
        files = self._files(Source(weights))
        for model in models:
            await self._call(_load, model, files)

    async def build(self, model: str, recipe: str, target: str, source: Source) -> Artifact:
        """Quantize, export and check one model; file and reference are in the artifact store when this returns."""
        path, weights = self._artifacts.scratch(".onnx"), source.weights
        reference = path.with_suffix(".npz")
        try:
            wanted = _Request(model, recipe, target)
            made = await self._call(_build, wanted, self._files(source), path, reference)
            reference_sha256, reference_bytes = await asyncio.to_thread(
                self._artifacts.adopt, reference, made.pop("reference_sha256")
            )
            sha256, size = await asyncio.to_thread(self._artifacts.adopt, path, made.pop("sha256"))
        finally:
            path.unlink(missing_ok=True)
            reference.unlink(missing_ok=True)
        return Artifact(
            sha256=sha256,
            size_bytes=size,
            weights=weights.label,
            reference_sha256=reference_sha256,
            reference_bytes=reference_bytes,
            **vars(wanted),
            **made,
        )

    def close(self) -> None:
        """End the child process, whatever it does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._waiting:
                # Python would wait for the child at exit; Executor.terminate_workers only exists from 3.14.
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            # An idle child ends by itself: killed, it would leave semaphores that Python reports as leaked.
            pool.shutdown(cancel_futures=True)

    def _files(self, source: Source) -> "_Files":
        weights, images = source.weights, source.calibration
        return _Files(
            self._checkpoints.path(weights.sha256) if weights.kind == "checkpoint" else weights.kind,
            weights.filename,
            self._checkpoints.path(images.sha256) if images else None,
            images.filename if images else "",
        )

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
            raise BuildProcessError("the build process died (out of memory, or a crash in native code)") from error
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


@dataclass(frozen=True)
class _Files:
    """A Source as the child process needs it: where the files lie, and what the user calls them."""

    weights: str | Path
    weights_name: str
    images: Path | None = None
    images_name: str = ""


@dataclass(frozen=True)
class _Request:
    """What is to be made."""

    model: str
    recipe: str
    target: str


def _load(model: str, files: _Files) -> None:
    _create(model, files)


def _create(model: str, files: _Files) -> Any:
    from efficientquant import create_model

    try:
        return create_model(model, files.weights, seed=BUILD_SEED)
    except LibraryUserError as error:
        # The user knows the checkpoint by its own name, not by where we keep it.
        name = files.weights_name
        raise UserError(str(error).replace(str(files.weights), name) if name else str(error)) from None


def _by_users_name(note: str, files: _Files) -> str:
    """A note about the checkpoint with the name that the user gave it."""
    return note.replace(Path(files.weights).name, files.weights_name) if files.weights_name else note


def _build(wanted: _Request, files: _Files, path: Path, reference: Path) -> dict[str, Any]:
    from efficientquant import export_onnx, quantize

    from efficientquant_controller.fleet.references import make_reference

    created = _create(wanted.model, files)
    chosen = get_recipe(wanted.recipe)
    try:
        with _images(created, files) as (images, drawn, seen):
            quantized = quantize(created, chosen, images)
            content = _reference_images(created, images)
        exported = export_onnx(quantized, path, target=wanted.target)
        checked, notes = _check(path, wanted.target)
    except LibraryUserError as error:
        raise UserError(str(error)) from None
    except EfficientQuantError as error:
        raise BuildError(str(error)) from None
    reference.write_bytes(make_reference(path, content))
    provenance = {"recipe": chosen.to_dict(), **quantized.provenance, **checked}
    if files.images is not None and chosen.needs_calibration:
        upload = {"sha256": files.images.name, "filename": files.images_name}
        provenance["calibration_images"] = {"upload": upload, "drawn": drawn}
    return {
        "sha256": exported.sha256,
        "reference_sha256": hashlib.sha256(reference.read_bytes()).hexdigest(),
        "recipe_version": chosen.version,
        "parity_max_abs": exported.parity_max_abs,
        "builder_flags": exported.builder_flags,
        "notes": tuple(_by_users_name(note, files) for note in (*exported.notes, *seen, *notes)),
        "provenance": provenance,
        "manifest": exported.manifest,
    }


def _check(path: Path, target: str) -> tuple[dict[str, Any], list[str]]:
    """What the target will make of the file; without the optional TensorRT-RTX, a note that it was not asked."""
    from efficientquant.checking import check

    try:
        return {"check": check(path, target).to_dict()}, []
    except MissingExtraError as error:
        return {}, [f"not checked for {target} on the controller: {error}"]


def _reference_images(model: Any, images: Any) -> Any:
    """The first of the user's images, or synthetic ones: what a device is checked and measured with, (n, C, H, W)."""
    import torch
    from efficientquant.models import input_spec, synthetic_images

    from efficientquant_controller.fleet.references import COUNT

    spec = input_spec(model)
    chosen = torch.cat(list(images))[:COUNT] if images is not None else synthetic_images(spec, COUNT, BUILD_SEED)
    return chosen.numpy()


@contextmanager
def _images(model: Any, files: _Files) -> Iterator[tuple[Any, dict[str, Any], list[str]]]:
    """The images to calibrate on in batches (None without any), which they are, and notes about them."""
    if files.images is None:
        yield None, {}, []
        return
    from efficientquant.images.data import open_images
    from efficientquant.models import input_spec

    with tempfile.TemporaryDirectory(prefix="efficientquant-images-") as name:
        place = Path(name) / files.images_name if files.images_name.endswith(".npz") else Path(name)
        try:
            if place.suffix == ".npz":
                place.symlink_to(files.images.absolute())
            else:
                _unpack(files.images, place)
            images = open_images(place, input_spec(model)).sample(CALIBRATION_IMAGES, BUILD_SEED)
            batches = [batch for batch, _ in images.batches()]
            seen = [note.replace(place.name, files.images_name) for note in images.notes()]
            yield batches, images.provenance(), seen
        except LibraryUserError as error:
            raise UserError(str(error).replace(str(place), files.images_name)) from None
        except zipfile.BadZipFile as error:
            raise UserError(f"{files.images_name} is no archive that can be read ({error}); send it again") from None


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an uploaded archive; zipfile keeps names with .. or a root inside the folder."""
    with zipfile.ZipFile(archive) as images:
        claimed = sum(one.file_size for one in images.infolist())
        if claimed > MAX_UNPACKED_BYTES:
            raise UserError(f"the images unpack to {claimed / 2**20:.0f} MiB; {MAX_UNPACKED_BYTES >> 20} are the most")
        images.extractall(folder)
