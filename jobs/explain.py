"""`afd explain`: for each image, a picture of what compression does to it in the classifier."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from afd_model.checkpoint import resolve_afd
from afd_model.classifier import AFDClassifier
from afd_model.evaluation.explainer import explain
from afd_model.evaluation.feature_maps import denormalized
from afd_model.inference.device import resolve_device
from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, EXIT_FAILED, print_answer
from jobs.explain_settings import ExplainSettings
from jobs.extras import require
from jobs.log import say
from jobs.model import backbone_of, model_facts
from jobs.run_job import run_job
from pipeline.decode import DecodeOptions, Decoder
from pipeline.inputs.image_names import common_root, distinct, relative_name
from pipeline.output import OutputFolder
from pipeline.own_files import own_files
from pipeline.pairs.clean_twins import CleanTwins
from pipeline.pairs.picture_pairs import PairReader, PicturePair
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage, ImageRef
from pipeline.screening.screen import Limits
from pipeline.sources import list_images


class Explainer:
    """Holds the classifier and the decoder. It computes in float32, so that differences between
    features are drift and not rounding."""

    def __init__(self, settings: ExplainSettings, twins: CleanTwins | None) -> None:
        self._backbone = backbone_of(settings)
        afd, checkpoint = resolve_afd(settings.afd, self._backbone)
        self._device = resolve_device(settings.device)
        self._classifier = AFDClassifier(self._backbone, afd).to(self._device)
        facts = model_facts(self._backbone, afd, checkpoint)
        module = os.path.basename(facts["afd"])
        self._model = f"classifier {self._backbone.name}, AFD-Module: {module}"
        self._quality = None if settings.quality == "none" else settings.quality
        geometry = Geometry.of_preset(self._backbone.preprocessing, in_blocks=afd is not None)
        options = DecodeOptions(
            device=self._device,
            batch_size=2,  # an image and its original
            dct=afd is not None,
        )
        self._reader = PairReader(
            Decoder(geometry, options),
            geometry,
            Limits(settings.max_pixels),
            twin_of=twins.of if twins else None,
            quality=self._quality,
        )
        self._dpi = settings.dpi

    def draw(self, ref: ImageRef, name: str, path: Path) -> None:
        """Write an image's picture. Raises ValueError or OSError when that is not possible."""
        from jobs.drawing.feature_figure import Shown, feature_figure
        from jobs.drawing.figures import write_png

        pair = self._reader.read(ref)
        pixels, dct = pair.pixels.to(self._device), pair.dct.to(self._device)
        clean = None if pair.clean_pixels is None else pair.clean_pixels.to(self._device)
        found = explain(self._classifier, pixels, dct, clean)
        preset = self._backbone.preprocessing
        shown = Shown(
            name=name,
            facts=self._facts(pair),
            model=self._model,
            degraded=denormalized(pixels[0].cpu(), preset.mean, preset.std),
            clean=None if clean is None else denormalized(clean[0].cpu(), preset.mean, preset.std),
            class_names=self._backbone.class_names,
            fdm_layer=self._fdm_layer(),
            trained=self._classifier.has_trained_module,
        )
        write_png(feature_figure(found, shown), path, self._dpi)

    def _facts(self, pair: PicturePair) -> str:
        facts = header_in_words(pair.image)
        return f"compressed here: {facts}" if self._quality is not None else facts

    def _fdm_layer(self) -> str:
        """What the FDM scales: the channels of the "stem" or of the "bottleneck"."""
        afd = self._classifier.afd
        return "bottleneck" if afd is not None and afd.config.fdm_on == "bottleneck" else "stem"


def header_in_words(image: EncodedImage) -> str:
    """The file's size, compression and damage in words."""
    height, width = image.size or (0, 0)
    size = f"{width}x{height} pixels, {(image.num_bytes or 0) / 1000:.1f} kB"
    if image.header is None:
        return f"not a JPEG, no stated quality, {size}"
    quality = "unknown" if image.header.quality is None else f"{image.header.quality}"
    facts = [f"JPEG quality {quality}", image.header.subsampling, size]
    if image.header.progressive:
        facts.append("progressive")
    if image.error is not None:
        facts.append(f"damaged: {image.error}")
    return ", ".join(facts)


def output_names(refs: Sequence[ImageRef]) -> Iterator[str]:
    """Each image's path in its collection; a repeated one (in two tars) ends in -2, -3, ..."""
    root = common_root(refs)
    files = distinct(f"{relative_name(ref, root)}.png" for ref in refs)
    return (file.removesuffix(".png") for file in files)


def explain_images(settings: ExplainSettings) -> int:
    """Draw every image; returns how many could not be drawn, which are named on stderr.

    Raises ValueError, worded for the user, when the job cannot start.
    """
    require("figures", "matplotlib")
    output = OutputFolder(settings.output)
    twins = None if settings.clean == "none" else CleanTwins(settings.clean)
    refs, failed = _listed(settings.images, output)
    if twins is not None and not twins.is_folder and len(refs) > 1:
        raise ValueError(
            f"--clean {settings.clean!r} is one file for {len(refs)} images: give the folder"
            " that holds their originals"
        )
    if not refs:
        return failed
    explainer = Explainer(settings, twins)
    say(f"drawing {len(refs)} images with {settings.backbone}")
    for ref, name in zip(refs, output_names(refs), strict=True):
        path = output.path / f"{name}.png"
        try:
            explainer.draw(ref, name, path)
        except (ValueError, OSError) as error:
            failed += 1
            say(f"afd explain: {ref.uri}: {error}")
        else:
            print_answer(path)
    return failed


def _listed(locations: Sequence[str], output: OutputFolder) -> tuple[list[ImageRef], int]:
    """The images, each once, and the number of locations that are not images."""
    found: dict[ImageRef, None] = {}
    failed = 0
    for location in locations:
        try:
            found |= dict.fromkeys(list_images(location, own_files(location, output)))
        except ValueError as error:
            failed += 1
            say(f"afd explain: {error}")
    return list(found), failed


def main(arguments: Sequence[str]) -> int:
    """`afd explain`: exit code 0 when every image was drawn, 1 when one was not, 2: bad usage."""
    settings = parse(ExplainSettings, arguments, prog="afd explain")
    return run_job("afd explain", lambda: _run(settings), out_of_memory="use --device cpu")


def _run(settings: ExplainSettings) -> int:
    return EXIT_FAILED if explain_images(settings) else EXIT_COMPLETE
