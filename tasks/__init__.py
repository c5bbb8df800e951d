"""The steps of the flows: one Prefect task per tutorial step, grouped by the thing it handles."""
