"""What happens around every pipeline."""

import sys

from kedro.framework.hooks import hook_impl


class EndedRuns:
    """Lets go of runs of MLflow that have ended.

    kedro-mlflow begins its run once more for each node and ends it once: in IPython the next pipeline would join the
    run of the one before. A run that somebody began around Kedro has not ended, and is left alone.
    """

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Let go of them."""
        if "mlflow" not in sys.modules:
            return
        import mlflow

        client = mlflow.MlflowClient()
        while (active := mlflow.active_run()) is not None:
            status = client.get_run(active.info.run_id).info.status
            if status == "RUNNING":
                return
            mlflow.end_run(status)
