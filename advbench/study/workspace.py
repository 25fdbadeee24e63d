"""Where a study works: folders, device, batch size, progress."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advbench.device import Device, resolve_device
from advbench.errors import BadSetting
from advbench.progress import Progress, Quiet


@dataclass(frozen=True)
class Workspace:
    """Where and on what to work; nothing here changes a result beyond the float noise of the kernels.

    keep_images   how many images of each attack are kept, the first of its sample; None: all
    others   what becomes of a page over other models where one is to be written: the new one is refused, written
             beside it in a folder of its own, or replaces it
    """

    runs_dir: Path = Path("runs")
    reports_dir: Path = Path("reports")
    data_dir: Path | None = None
    download: bool = False
    device: Device = field(default_factory=lambda: resolve_device(None))
    batch_size: int = 256
    keep_images: int | None = None
    others: Literal["refused", "beside", "replaced"] = "refused"
    progress: Progress = field(default_factory=Quiet)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise BadSetting(f"batch_size = {self.batch_size} is out of range; it must be at least 1")
        if self.keep_images is not None and self.keep_images < 0:
            raise BadSetting(f"keep_images = {self.keep_images} is out of range; write 0 or more, or all")
