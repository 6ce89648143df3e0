"""Which settings of a configuration change nothing, so that searching over them is an error. Imports no torch."""

from model.config.train_config import TrainConfig


def settings_without_effect(config: TrainConfig) -> set[str]:
    """Dotted keys that change nothing in this run, such as `optimizer.sharpness.rho` without SAM."""
    model, optimizer, schedule = config.model, config.optimizer, config.schedule
    keys: set[str] = set()
    if config.data.source != "file":
        keys |= {"data.path", "data.column"}
    if config.data.source not in ("auto", "hub"):
        keys |= {f"data.hub.{key}" for key in type(config.data.hub).model_fields}
    if config.tokenizer.pretrained is not None:
        keys |= {"tokenizer.model", "tokenizer.leading_space", "tokenizer.trained_on"}
    if model.positions != "rope":
        keys |= {"model.rope_base"}
    if model.n_layer == 1:
        keys |= {"model.value_residual"}
    if optimizer.sharpness.method == "none":
        keys |= {"optimizer.sharpness.rho", "optimizer.sharpness.same_dropout"}
    if not (model.dropout or model.dropout_of_embeddings or model.dropout_of_attention):
        keys |= {"optimizer.sharpness.same_dropout", "training.r_drop"}
    if optimizer.name == "muon" or optimizer.weight_decay == 0:
        keys |= {"optimizer.weight_decay_on"}
    if optimizer.name == "sgd":
        keys |= {"optimizer.betas", "optimizer.eps"}
    if optimizer.name in ("adam", "adamw"):
        keys |= {"optimizer.momentum"}
    if optimizer.name != "muon":
        keys |= {"optimizer.auxiliary_lr", "optimizer.auxiliary_weight_decay"}
        keys |= {"optimizer.orthogonalization", "optimizer.split_qkv"}
    if schedule.decay != "wsd":
        keys |= {"schedule.decay_fraction", "schedule.decay_shape"}
    if schedule.decay == "constant":
        keys |= {"schedule.floor_fraction", "schedule.floor_lr"}
    if schedule.floor_lr is not None:
        keys |= {"schedule.floor_fraction"}
    return keys
