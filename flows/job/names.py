"""What a recovery directory hangs on: the names of the main flow and of its steps.

The engine finds a step's state by `flow.step`, so none of them is ever renamed. The
version is that of the state itself: whoever changes its form raises it here, and both
the flow and `flows.rescale`, which moves the state, refuse any other.
"""

FLOW = "positions"

SOURCE, POSITION, PARQUET, LETTERS = "executions", "position", "parquet", "dead_letters"
"""The steps that keep state; all others keep none."""

SOURCE_ID, POSITION_ID, PARQUET_ID, LETTERS_ID = (
    f"{FLOW}.{step}" for step in (SOURCE, POSITION, PARQUET, LETTERS)
)
"""The same steps, as the recovery store names them."""

POSITION_VERSION = 4
"""Of the recovery snapshot of a position."""
