"""A model with the weights that others published and none of our own training: what training must beat."""

import numpy as np

from chiasma.adapt.callbacks import callbacks_of
from chiasma.data.dataset import Dataset
from chiasma.experiment.beginning import deciding_metric
from chiasma.experiment.calibration import fit_calibrator
from chiasma.experiment.config import RunConfig
from chiasma.experiment.saved import SavedModel
from chiasma.train.predicting import predict_logits
from chiasma.train.trainer import Trainer

RUN = "untrained"


def untrained_model(config: RunConfig, dataset: Dataset) -> SavedModel:
    """Return the settings' design as a training would begin with it: published weights, everything else drawn.

    Temperature and threshold are fitted on select, as for a trained model. Its head is drawn from the seed, so that it
    knows nothing of the labels.

    Raises:
        ConfigError: The design does not fit the data, or its published weights cannot be used.
    """
    metric = deciding_metric(config, dataset)
    design, seed = config.design(dataset.signature), config.run.seed
    callbacks = callbacks_of(design, dataset, seed=seed)
    trainer = Trainer(design, dataset, seed=seed, metric=metric, device=config.run.device, callbacks=callbacks)
    # Before the first step: what is left is what it began with.
    trainer.request_stop()
    model = trainer.fit().model
    rows = dataset.rows("select")
    logits, labels = predict_logits(model, dataset, rows), dataset.labels(rows).numpy()
    return SavedModel(
        model=model,
        preprocessing=dataset.preprocessing(),
        calibrator=fit_calibrator(logits, labels, dataset.signature.target, metric=metric),
        card={
            "run": RUN,
            "metric": metric,
            "fingerprint": dataset.fingerprint,
            "data": config.data.to_dict(),
            "seed": seed,
        },
        # It has seen select alone, which calibrated it.
        learnt=np.unique(dataset.contents(rows)),
    )
