"""The watch over a run's processes on a real Ray: its message about a death, and that it ends every kind of wait."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Each trial runs in an actor's main thread, as in verl's task runner.
SCRIPT = """
import asyncio, contextlib, json, os, signal, sys, threading, time
import ray
from recipe.prepo.supervise import hung_rewards as rollouts, messages
from recipe.prepo.supervise.dead_processes import Process, Watch
from recipe.prepo.errors import ConfigError, FaultError
from recipe.prepo.supervise.cleanup import Sweeper, ray_roots

cleaning = contextlib.ExitStack()
cleaning.enter_context(Sweeper(ray_roots()))
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0)
class Worker:
    def pid(self):
        return os.getpid()
    def work(self, seconds):
        time.sleep(seconds)

class Engine:
    errored = False

@ray.remote(num_cpus=0)
class Server:
    def __init__(self):
        self.engine = Engine()
    async def lose_engine(self):
        self.engine.errored = True
    async def pid(self):
        return os.getpid()

@ray.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.failures = rollouts.Failures()
    def fail(self, times):
        for _ in range(times):
            self.failures.note(ValueError(f"number {self.failures.training + 1}"), validate=False)
    def work(self, seconds):
        time.sleep(seconds)

class Manager:
    pass

@ray.remote(num_cpus=0, max_concurrency=100)
class Grader:
    def __init__(self):
        self.reward_manager = Manager()
        self.reward_manager.loop = asyncio.get_event_loop()  # as verl's
        self.begun = 0
    async def grade(self, seconds):
        self.begun += 1
        await self.reward_manager.loop.run_in_executor(None, time.sleep, seconds)
        return "graded"
    async def num_begun(self):
        return self.begun

@ray.remote(num_cpus=0, max_restarts=0)
class Trainer:
    def another(self, victim):
        ray.get(victim.pid.remote())
    def run(self, waiting, victim, bystander, seconds):
        members = [Process("worker 0", bystander), Process("victim", victim)]
        pid = ray.get(victim.pid.remote())
        begin = time.monotonic()
        try:
            with Watch(members, lambda: "Go on.", exit_limit_s=seconds) as watch:
                threading.Timer(2, lambda: os.kill(pid, signal.SIGKILL)).start()
                if waiting == "get":
                    ray.get(bystander.work.remote(60))
                elif waiting == "poll":
                    time.sleep(60)
                elif waiting == "event loop":
                    asyncio.run(asyncio.sleep(60))
                elif waiting == "call to the dead":
                    ray.get(victim.work.remote(60))
                elif waiting == "follow-up error":
                    time.sleep(2.2)
                    raise ValueError("no rollouts")
                elif waiting == "deaf":
                    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
                    time.sleep(60)
        except FaultError as error:
            return str(error), time.monotonic() - begin
        return "nothing", time.monotonic() - begin

    def busy(self, bystander):
        with Watch([Process("worker 0", bystander)], lambda: "Go on.") as watch:
            call = bystander.work.remote(4)
            time.sleep(3)
            watch.require_alive()
            ray.get(call)
        return "nothing"

    def own_error(self, bystander):
        try:
            with Watch([Process("worker 0", bystander)], lambda: "Go on."):
                raise ValueError("our own")
        except ValueError as error:
            return str(error)

    def engine(self, server):
        try:
            with Watch([Process("server", server)], lambda: "Go on.") as watch:
                server.lose_engine.remote()
                time.sleep(60)
        except FaultError as error:
            return str(error)

found = {}
for waiting in ("get", "poll", "event loop", "call to the dead", "follow-up error"):
    found[waiting] = ray.get(Trainer.remote().run.remote(waiting, Worker.remote(), Worker.remote(), 60))
    found[waiting + " reported"] = messages.get(messages.FAULT)
    messages.clear()
found["busy"] = ray.get(Trainer.remote().busy.remote(Worker.remote()))
found["own error"] = ray.get(Trainer.remote().own_error.remote(Worker.remote()))
found["engine"] = ray.get(Trainer.remote().engine.remote(Server.remote()))
messages.clear()
try:
    ray.get(Trainer.remote().run.remote("deaf", Worker.remote(), Worker.remote(), 2))
except ray.exceptions.RayActorError as error:
    found["deaf"] = messages.fault_behind(error)
lonely = Trainer.remote()
call = lonely.busy.remote(Worker.remote())
ray.kill(lonely)
victim = Worker.remote()
ray.get(victim.pid.remote())
ray.kill(victim)
for scene, call in (("trainer", call), ("another", Trainer.remote().another.remote(victim))):
    messages.clear()
    try:
        ray.get(call)
    except ray.exceptions.RayActorError as error:
        found[scene] = messages.fault_behind(error)

messages.require_lone_run()
queue = Worker.options(name=messages.QUEUE, namespace=messages.QUEUE_NAMESPACE).remote()
try:
    messages.require_lone_run()
except ConfigError as error:
    found["second run"] = str(error)

rollouts.ANSWER_LIMIT_S = 3.0
counters = [Counter.remote(), Counter.remote()]
count = rollouts.FailureCount(counters)
ray.get([each.fail.remote(times) for each, times in zip(counters, (2, 5))])
found["counted"] = [str(count())]
ray.get(counters[0].fail.remote(1))
busy = counters[1].work.remote(8)
found["counted"].append(str(count()))
ray.get(busy)

grader = Grader.remote()
hung = [grader.grade.remote(1000) for _ in range(40)]
while ray.get(grader.num_begun.remote()) < len(hung):  # Ray begins the calls of such an actor in any order
    time.sleep(0.1)
found["threads"] = []
for renewed in (False, True):
    if renewed:
        rollouts.renew_threads([grader])
    call = grader.grade.remote(0)
    done, _ = ray.wait([call], timeout=60 if renewed else 5)
    found["threads"].append(len(done))
ray.kill(grader)
ray.shutdown()
cleaning.close()
print("JSON" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=600, check=False
    )
    assert "JSON" in done.stdout, done.stderr[-3000:]
    return dict(json.loads(done.stdout.partition("JSON")[2]))


@pytest.mark.parametrize("waiting", ["get", "poll", "event loop", "call to the dead", "follow-up error"])
def test_a_death_ends_every_kind_of_waiting_with_one_message(found: dict[str, Any], waiting: str) -> None:
    message, seconds = found[waiting]
    assert message.startswith("the victim (pid ")
    assert " died: " in message and message.endswith(". Go on.")
    assert seconds < 20
    assert found[f"{waiting} reported"] == message  # for the driver, should the error itself not arrive


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("busy", "nothing"),  # a process that works long is not dead
        ("own error", "our own"),  # an error without a death stays what it is
        ("engine", "the engine of the server (pid "),  # it died under its server
        ("deaf", "the victim (pid "),  # a trainer that nothing can wake ends itself, and the driver knows why
        ("trainer", "the trainer's process died: "),
        ("second run", "another training runs on this Ray cluster"),
    ],
)
def test_what_the_driver_says_of_each_end(found: dict[str, Any], scene: str, said: str) -> None:
    assert said in found[scene]


def test_what_is_no_death_of_this_run(found: dict[str, Any]) -> None:
    assert found["another"] == ""  # it came before the watch began: the driver shows the error itself
    assert found["counted"] == [  # a worker that does not answer keeps its count
        "7 training rollouts failed; the latest: ValueError: number 2",
        "8 training rollouts failed; the latest: ValueError: number 3",
    ]
    assert found["threads"] == [0, 1]  # rewards that hang take no thread from the next step
