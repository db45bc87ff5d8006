"""DOC and PPT of the nineties, turned into DOCX and PPTX by LibreOffice where it is installed.

The converter runs inside the extraction child, under the same limits. Without it the error is retryable: the files wait
in the failed inbox under `converter_missing`, and can be retried together once it is there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from core.errors import ExtractionFailed
from ingest.mounts import OWN_TMP

_TIMEOUT_S = 90.0


def convert(data: bytes, suffix: str, target: str) -> bytes:
    """Convert an old Office file; `suffix` and `target` are like `.doc` and `docx`.

    Raises:
        ExtractionFailed: `converter_missing` or `converter_unusable` (both retryable), `broken_document`,
            `extraction_timeout`.
    """
    program = shutil.which("soffice") or shutil.which("libreoffice")
    if program is None:
        raise ExtractionFailed(
            "old Office files need LibreOffice (`soffice`) on the machine that extracts; install it and retry, or save"
            f" the file as {target.upper()}",
            code="converter_missing",
            retryable=True,
        )
    folder = Path.cwd()  # the child's own, removed afterwards
    if not _can_write(OWN_TMP):
        raise ExtractionFailed(
            "LibreOffice needs a /tmp to write to, and the extractor has none of its own: the kernel allows no mount"
            f" namespace, or Tsumugi itself lies in /tmp. Change that and retry, or save the file as {target.upper()}",
            code="converter_unusable",
            retryable=True,
        )
    source = folder / f"source{suffix}"
    source.write_bytes(data)
    command = [program, f"-env:UserInstallation=file://{folder}/profile", "--headless", "--norestore", "--convert-to"]
    try:
        ended = subprocess.run(  # noqa: S603 - no shell, and no part of the command comes from the file
            [*command, target, "--outdir", str(folder), str(source)],
            check=False,
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ExtractionFailed("the converter took too long", code="extraction_timeout") from error
    made = folder / f"source.{target}"
    if not made.exists():
        raise ExtractionFailed(
            f"the converter could not read the file (it ended with {ended.returncode})", code="broken_document"
        )
    return made.read_bytes()


def _can_write(folder: Path) -> bool:
    """Tried, not asked: Landlock is no part of what `os.access` answers."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
