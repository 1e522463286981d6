"""Rewards of a search for fusions, recorded in its run."""

from chiasma.experiment.kept_rewards import kept_rewards, reward_keeper
from chiasma.search.fusion_rewards import RewardParts
from chiasma.store.run import RunStore

STOPPED = RewardParts(reward=0.6, metric=0.5, lift=0.2, penalties={"flops": 0.1})
REFUSED = RewardParts(reward=0.0, invalid="probe")


def test_each_part_of_a_reward_is_read_back_and_a_resume_records_only_what_changed(tmp_path):
    with RunStore.create(tmp_path, verb="search", config={}, provenance={}) as store:
        path = store.path
        keep = reward_keeper(store)
        keep("a", STOPPED)
        keep("b", REFUSED)
    with RunStore.open(path, write=True) as store:
        assert kept_rewards(store) == {"a": STOPPED, "b": REFUSED}
        again = reward_keeper(store)
        again("a", STOPPED)
        assert len(store.events("reward")) == 2
        longer = STOPPED.model_copy(update={"reward": 0.7, "lift": 0.3})
        again("a", longer)
        assert kept_rewards(store) == {"a": longer, "b": REFUSED}
