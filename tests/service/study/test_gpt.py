from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from service.study.gpt import Gpt


def test_a_configuration_stored_before_a_key_was_there_has_what_held_then():
    stored = TrainConfig().model_dump(mode="json")
    del stored["tokenizer"]["leading_space"]
    assert Gpt().recorded(Document("trial 3", stored)).tokenizer.leading_space is False
    assert Gpt().read(Document("file", stored)).tokenizer.leading_space is True


def test_corpus_and_evaluation_are_common_and_the_budget_where_trials_have_none_of_their_own():
    common = Gpt().is_common
    assert common("data.source", own_budgets=True)
    assert common("evaluation.block_size", own_budgets=True)
    assert common("training.tokens", own_budgets=False)
    assert not common("training.tokens", own_budgets=True)
    assert not common("optimizer.lr", own_budgets=False)


def test_it_knows_what_has_no_effect():
    assert "optimizer.sharpness.rho" in Gpt().without_effect(TrainConfig())
