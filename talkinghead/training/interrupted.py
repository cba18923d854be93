"""The exception of learning that a signal ended."""

from ..model import Model, Person


class Interrupted(KeyboardInterrupt):
    """Learning was interrupted between two steps.

    Attributes:
        person: of `talkinghead.finetune`, the person after the last step.
        model: of `talkinghead.train`, the model after the last step, which is also in the run's folder.
    """

    def __init__(self, person: Person | None = None, model: Model | None = None) -> None:
        super().__init__()
        self.person, self.model = person, model
