"""A process that scores answers by the rules of reasoning-gym's tasks; see :mod:`inversion.limited`."""

import pickle
from base64 import b64decode
from functools import lru_cache
from typing import Any

from inversion.limited import serve


def main() -> None:
    """Answer ``{"data", "entry", "given"}`` with ``{"score"}``; see :class:`inversion.responses.tasks.TaskScorer`.

    A question without an entry only has the data set made.
    """
    import reasoning_gym

    @lru_cache
    def data_of(settings: str) -> Any:
        return reasoning_gym.create_dataset(**pickle.loads(b64decode(settings)))

    def score(asked: dict[str, Any]) -> dict[str, Any]:
        data = data_of(asked["data"])
        if "entry" not in asked:
            return {"ready": True}
        return {"score": float(data.score_answer(asked["given"], pickle.loads(b64decode(asked["entry"]))))}

    serve(score)


if __name__ == "__main__":
    main()
