"""Artifact builds in a child process.

No other module of the fleet uses the quantization library.
"""

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

from efficientquant_controller.errors import FleetError, StoreError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore, is_full
from efficientquant_controller.fleet.owner import retrieve_error
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import Artifact, Calibration, Device, Weights

# The seed for random weights and calibration images: the same request makes the same artifact on any machine.
BUILD_SEED = 0
# Increment it when the same request makes another artifact than before, so that stored artifacts are built again.
BUILD_VERSION = 5
# 32 photographs need a tenth of it. A larger archive could fill the disk.
MAX_UNPACKED_BYTES = 1 << 30

LOG = logging.getLogger(__name__)


class BuildError(FleetError):
    """A valid request whose artifact could not be built."""


class BuildProcessError(BuildError):
    """A build process that died."""


def canonical_recipe(text: str) -> str:
    """Return the canonical name of a recipe.

    It has only the options that differ from the defaults, sorted, for example `int8:scope=conv`. Raises the library's
    UserError when the recipe or an option does not exist.
    """
    recipe = get_recipe(text)
    base = get_recipe(text.partition(":")[0])
    options, defaults = recipe.to_dict()["options"], base.to_dict()["options"]
    differing = [name for name in sorted(options) if options[name] != defaults[name]]
    changed = [f"{name}={'none' if options[name] is None else options[name]}" for name in differing]
    return ":".join([base.name, *changed])


@dataclass(frozen=True)
class Source:
    """The weights and calibration images of an artifact."""

    weights: Weights
    calibration: Calibration | None = None


def build_key(model: str, recipe: str, target: str, source: Source) -> str:
    """Return the cache key of a build request (hex SHA-256)."""
    import efficientquant

    # The name of a checkpoint file does not matter, only its content.
    identity = {"kind": source.weights.kind, "sha256": source.weights.sha256}
    # Recipes without calibration depend on them too: the reference inputs are the user's images.
    images = source.calibration.sha256 if source.calibration else None
    request = {
        "version": BUILD_VERSION,
        "model": model,
        "recipe": get_recipe(recipe).to_dict(),
        "target": target,
        "weights": identity,
        "calibration": images,
        "seed": BUILD_SEED,
        "library": efficientquant.__version__,
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Builder:
    """The builder of artifacts, with the quantization library in one child process.

    The child starts on demand and ends when idle. In the controller's own process torch would keep its memory, and a
    crash in native code would end the controller.
    """

    def __init__(self, artifacts: ContentStore, checkpoints: ContentStore) -> None:
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._pool: ProcessPoolExecutor | None = None
        self._waiting = 0
        self._closing = False

    def canonical_recipes(self, recipes: tuple[str, ...]) -> tuple[str, ...]:
        """Return the canonical names of recipes without duplicates.

        Raises UserError when a recipe or an option does not exist.
        """
        try:
            return tuple(dict.fromkeys(canonical_recipe(recipe) for recipe in recipes))
        except LibraryUserError as error:
            raise UserError(str(error)) from error

    def check_targets(self, devices: Sequence[tuple[Device, Variant]]) -> None:
        """Raise UserError when artifacts cannot be lowered for a device's target."""
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
        """Raise UserError when the calibration images cannot be used.

        They must be uploaded (otherwise NotFoundError), and be a .zip or an .npz.
        """
        if calibration is not None:
            self._checkpoints.path(calibration.sha256)
            if not calibration.filename.endswith((".zip", ".npz")):
                raise UserError(f"{calibration.filename} is neither a .zip of images nor an .npz; send one of these")

    async def check_models(self, models: tuple[str, ...], weights: Weights) -> None:
        """Load every model once with its weights.

        Raises UserError for a wrong model or checkpoint, and BuildError for any other failure.
        """
        files = self._files(Source(weights))
        for model in models:
            await self._call(_load, model, files)

    async def build(self, model: str, recipe: str, target: str, source: Source) -> Artifact:
        """Quantize, export and check one model.

        The file and its reference are in the artifact store when this returns. Raises UserError for a wrong request or
        a missing upload, and BuildError for any other failure.
        """
        path, weights = self._artifacts.scratch(".onnx"), source.weights
        reference = path.with_suffix(".npz")
        try:
            request = _Request(model, recipe, target)
            made = await self._call(_build, request, self._files(source), path, reference)
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
            **vars(request),
            **made,
        )

    def close(self) -> None:
        """End the child process, even during a build."""
        self._closing = True
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._waiting:
                # Python would wait for the child at exit; Executor.terminate_workers only exists from 3.14.
                for process in list((pool._processes or {}).values()):
                    process.terminate()
            # An idle child exits by itself. A killed one leaves semaphores that Python reports as leaked.
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
            context = multiprocessing.get_context("spawn")  # fork would copy gRPC's state without its threads
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_die_with_parent)
        self._waiting += 1
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
            answer.add_done_callback(retrieve_error)
            await asyncio.wait({answer})
            return self._result(answer)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._end_when_idle()

    def _result(self, answer: asyncio.Future[Any]) -> Any:
        """Return the child's answer or raise its error.

        Raises BuildProcessError when the child died. An unexpected error becomes a BuildError of this build.
        """
        error = answer.exception()
        if error is None or isinstance(error, FleetError):
            return answer.result()
        if isinstance(error, BrokenProcessPool):
            self._pool = None
            if self._closing:
                raise BuildError("the controller stops; start the campaign again when it is back") from error
            raise BuildProcessError("the build process died (out of memory, or a crash in native code)") from error
        if is_full(error):
            raise StoreError(f"no room to build: {error}; make room in {self._artifacts.root}") from error
        LOG.error("a build failed unexpectedly", exc_info=error)
        raise BuildError(f"{type(error).__name__}: {error} (a bug; the controller's log has the traceback)") from error

    def _end_when_idle(self, after_s: float = 20.0) -> None:
        """End the child in `after_s` seconds if it is idle then."""
        # A new child takes seconds to start, an idle one holds a GiB of memory.

        def end() -> None:
            if self._pool is not None and not self._waiting:
                self._pool.shutdown(wait=False)
                self._pool = None

        asyncio.get_running_loop().call_later(after_s, end)


def _die_with_parent() -> None:
    """Exit this child when the controller is killed."""
    # The queue that the child waits on does not report the parent's end.

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


@dataclass(frozen=True)
class _Files:
    """A Source as paths, with the user's names for the files."""

    weights: str | Path
    weights_name: str
    images: Path | None = None
    images_name: str = ""


@dataclass(frozen=True)
class _Request:
    """The model, recipe and target of a build."""

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
        # The user knows the name of the checkpoint, not its path on the controller.
        name = files.weights_name
        raise UserError(str(error).replace(str(files.weights), name) if name else str(error)) from None


def _by_users_name(note: str, files: _Files) -> str:
    """Return a note with the user's name for the checkpoint."""
    return note.replace(Path(files.weights).name, files.weights_name) if files.weights_name else note


def _build(request: _Request, files: _Files, path: Path, reference: Path) -> dict[str, Any]:
    from efficientquant import export_onnx, quantize

    from efficientquant_controller.fleet.references import make_reference

    created = _create(request.model, files)
    recipe = get_recipe(request.recipe)
    try:
        with _images(created, recipe, files) as (images, image_provenance, image_notes):
            quantized = quantize(created, recipe, images)
            reference_inputs = _reference_images(created, images)
        exported = export_onnx(quantized, path, target=request.target)
        checked, notes = _check(path, request.target)
    except EfficientQuantError as error:
        if is_full(error.__cause__):
            raise error.__cause__ from None  # type: ignore[misc]
        raise (UserError if isinstance(error, LibraryUserError) else BuildError)(str(error)) from None
    reference.write_bytes(make_reference(path, reference_inputs))
    provenance = {"recipe": recipe.to_dict(), **quantized.provenance, **checked}
    if files.images is not None and recipe.needs_calibration:
        upload = {"sha256": files.images.name, "filename": files.images_name}
        provenance["calibration_images"] = {"upload": upload, "drawn": image_provenance}
    return {
        "sha256": exported.sha256,
        "reference_sha256": hashlib.sha256(reference.read_bytes()).hexdigest(),
        "recipe_version": recipe.version,
        "parity_max_abs": exported.parity_max_abs,
        "builder_flags": exported.builder_flags,
        "notes": tuple(_by_users_name(note, files) for note in (*exported.notes, *image_notes, *notes)),
        "provenance": provenance,
        "manifest": exported.manifest,
    }


def _check(path: Path, target: str) -> tuple[dict[str, Any], list[str]]:
    """Return the target's verdict on the file, and notes.

    Without the optional TensorRT-RTX or OpenVINO there is only a note that the file was not checked.
    """
    from efficientquant.checking import check

    try:
        return {"check": check(path, target).to_dict()}, []
    except MissingExtraError as error:
        return {}, [f"not checked for {target} on the controller: {error}"]


def _reference_images(model: Any, images: Any) -> Any:
    """Return the reference inputs (n, C, H, W).

    They are the user's first images, or synthetic ones. Devices are checked and measured with them.
    """
    import torch
    from efficientquant.models import input_spec, synthetic_images

    from efficientquant_controller.fleet.references import COUNT

    spec = input_spec(model)
    inputs = torch.cat(list(images))[:COUNT] if images is not None else synthetic_images(spec, COUNT, BUILD_SEED)
    return inputs.numpy()


@contextmanager
def _images(model: Any, recipe: Any, files: _Files) -> Iterator[tuple[Any, dict[str, Any], list[str]]]:
    """Yield the calibration images in batches, their provenance, and notes.

    The images are None when none were uploaded. Raises UserError when they cannot be read.
    """
    if files.images is None:
        yield None, {}, []
        return
    from efficientquant.images.data import open_images
    from efficientquant.models import input_spec

    with tempfile.TemporaryDirectory(prefix="efficientquant-images-") as name:
        images_path = Path(name) / files.images_name if files.images_name.endswith(".npz") else Path(name)
        try:
            if images_path.suffix == ".npz":
                images_path.symlink_to(files.images.absolute())
            else:
                _unpack(files.images, images_path)
            images = open_images(images_path, input_spec(model)).sample(recipe.calibration_images, BUILD_SEED)
            batches = [batch for batch, _ in images.batches()]
            notes = [note.replace(images_path.name, files.images_name) for note in images.notes()]
            yield batches, images.provenance(), notes
        except LibraryUserError as error:
            raise UserError(str(error).replace(str(images_path), files.images_name)) from None
        except zipfile.BadZipFile as error:
            raise UserError(f"{files.images_name} is no archive that can be read ({error}); send it again") from None


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an uploaded archive.

    zipfile keeps absolute names and names with `..` inside the folder. Raises UserError above MAX_UNPACKED_BYTES.
    """
    with zipfile.ZipFile(archive) as images:
        unpacked_bytes = sum(info.file_size for info in images.infolist())
        if unpacked_bytes > MAX_UNPACKED_BYTES:
            mebibytes = unpacked_bytes / 2**20
            raise UserError(f"the images unpack to {mebibytes:.0f} MiB; at most {MAX_UNPACKED_BYTES >> 20} are allowed")
        images.extractall(folder)
