"""What the doctor accepts starts and trains: an objective of another kind, tools with LoRA, and another template."""

import pytest
from doctor_cases import ACCEPTED, overrides, write_files
from real_stack import Run, check_audit, launch

pytestmark = pytest.mark.e2e
QUICK = ["trainer.test_freq=-1", "trainer.val_before_train=False", "trainer.save_freq=-1"]
# Another item of the runtime environment than variables: workers are not forked, as on a cluster.
NOT_FORKED = "+ray_kwargs.ray_init.runtime_env.config={setup_timeout_seconds: 600}"


@pytest.mark.parametrize("name", [n if n == "tools" else pytest.param(n, marks=pytest.mark.slow) for n in ACCEPTED])
def test_an_accepted_configuration_trains(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(name)
    write_files(folder)
    more = [NOT_FORKED] if name == "objective" else []
    run: Run = launch(folder / "run", [*overrides(folder, ACCEPTED[name]), *QUICK, *more])
    assert sorted(run.steps) == [1, 2]
    assert check_audit(run).startswith("ok: ")
    metric = {"objective": "actor/kl_loss", "tools": "num_turns/mean", "model": "actor/grad_norm"}[name]
    assert run.steps[2][metric] > 0
    if name == "model":
        assert "dropped   100 of 200 training prompts" in run.output
