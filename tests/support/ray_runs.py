"""Script that runs `prepare` on a Ray cluster of two nodes of one core each, which it starts on this machine.

    python tests/support/ray_runs.py FOLDER

FOLDER has the videos of `draw_videos`. The data sets are written to folders in it, the errors to runs.json.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from conftest import RedSquare
from support.faulty_detectors import DOOMED, Doomed, Failing, wait_for
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare
from talkinghead.errors import TalkingheadError
from talkinghead.system import ray_cluster

FAILING_VIDEOS = 4  # with shades on which Failing crashes and exits, and none on which it hangs
_STORE_BYTES = 80 << 20


def error_of(run: Callable[[], object]) -> str:
    """Return the error of a run that must fail."""
    try:
        run()
    except TalkingheadError as error:
        return str(error)
    return "no error"


def hide_token(executor: ray_cluster.RayExecutor) -> None:
    """Check the nodes of a cluster that do not see the driver's folder."""
    token = executor._setup.token
    hidden = token.with_name("hidden")
    token.rename(hidden)
    try:
        check_nodes(executor)
    finally:
        hidden.rename(token)


check_nodes = ray_cluster.RayExecutor.check_nodes


def main(folder: Path) -> None:
    """Run everything that needs a cluster, and write runs.json."""
    import ray
    from ray.cluster_utils import Cluster

    writer.SHARD_CLIPS = 2
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "temp_dir": os.environ["TALKINGHEAD_TEST_RAY"],
        },
    )
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES, env_vars={DOOMED: "1"})
    cluster.wait_for_nodes()
    address = cluster.address
    videos = sorted((folder / "videos").iterdir(), key=lambda path: int(path.stem))
    runs: dict[str, object] = {}

    def prepare_on_ray(count: int, name: str, detector: RedSquare) -> object:
        return prepare(videos[:count], folder / name, 16, detector, ray=address)

    # one connection for several runs, as in a program that uses Ray already
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    version, ray_cluster.__version__ = ray_cluster.__version__, "0.0.1"
    runs["version"] = error_of(lambda: prepare_on_ray(2, "other", RedSquare()))
    ray_cluster.__version__ = version
    ray_cluster.RayExecutor.check_nodes = hide_token  # type: ignore[method-assign]
    runs["folder"] = error_of(lambda: prepare_on_ray(2, "unseen", RedSquare()))
    ray_cluster.RayExecutor.check_nodes = check_nodes  # type: ignore[method-assign]
    runs["left"] = sorted(path.name for path in folder.iterdir())
    prepare_on_ray(FAILING_VIDEOS, "failing", Failing())
    runs["connected"] = ray.is_initialized()
    ray.shutdown()
    mark = folder / "mark"

    def kill_node() -> None:
        wait_for(mark)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_node, daemon=True)
    killer.start()
    result = prepare_on_ray(len(videos), "killed", Doomed(mark))
    killer.join()
    runs["disconnected"] = not ray.is_initialized()
    runs["killed"] = {"workers": result.cost.workers, "pid": int(mark.read_text())}  # type: ignore[attr-defined]
    (folder / "runs.json").write_text(json.dumps(runs))
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
