"""Where the time of the tests goes: a pytest plugin, which closes each run with what cost most.

Processor time, that of child processes included, for it says the same on a busy machine as on an
idle one. A fixture that several tests share is counted by itself, not in the test that happened to
come first. A test that costs more than its budget stands in the report: it is to be made cheaper,
or marked `budget(SECONDS)` with the reason beside it.
"""

import dataclasses
import json
import operator
import os

import jax
import pytest

BUDGET = 5.0
SHOWN = 10
# What jax reports of each program: its way from Python to XLA's input, and XLA's own part.
LOWERING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
COMPILING = "/jax/core/compile/backend_compile_duration"
CACHED = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a processor; of them (by the clock) those of jax and XLA; programs."""

    seconds: float = 0.0
    lowering: float = 0.0
    compiling: float = 0.0
    programs: int = 0
    cached: int = 0

    def __add__(self, other):
        return Cost(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))

    def __sub__(self, other):
        return Cost(*map(operator.sub, dataclasses.astuple(self), dataclasses.astuple(other)))


class Meter:
    """In the process that runs tests: reads what each phase and each shared fixture cost."""

    def __init__(self):
        self.jax = Cost()
        self.shared = Cost()  # Of fixtures already counted by themselves.
        self.fixtures = []
        self.before = self.reading()
        jax.monitoring.register_event_duration_secs_listener(self._took)
        jax.monitoring.register_event_listener(self._happened)

    def _took(self, event, seconds, **_):
        if event in LOWERING:
            self.jax += Cost(lowering=seconds)
        elif event == COMPILING:
            self.jax += Cost(compiling=seconds, programs=1)

    def _happened(self, event, **_):
        if event == CACHED:
            self.jax += Cost(cached=1)

    def reading(self):
        return dataclasses.replace(self.jax, seconds=sum(os.times()[:4]))

    def pytest_runtest_logstart(self):
        self.before, self.shared = self.reading(), Cost()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        before, inner = self.reading(), self.shared
        try:
            return (yield)
        finally:
            own = self.reading() - before - (self.shared - inner)
            self.shared += own
            self.fixtures.append((fixturedef.argname, dataclasses.astuple(own)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        now = self.reading()
        report.cost = dataclasses.astuple(now - self.before - self.shared)
        report.fixtures, self.fixtures = self.fixtures, []
        mark = item.get_closest_marker("budget")
        report.budget = mark.args[0] if mark else BUDGET
        self.before, self.shared = now, Cost()
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["cost"] = dataclasses.astuple(self.reading())


class Report:
    """In the process that speaks to the terminal: gathers the costs, prints the greatest."""

    def __init__(self, path):
        self.path = path
        self.tests = {}
        self.budgets = {}
        self.fixtures = {}
        self.workers = []

    def pytest_runtest_logreport(self, report):
        self.tests[report.nodeid] = self.tests.get(report.nodeid, Cost()) + Cost(*report.cost)
        self.budgets[report.nodeid] = report.budget
        for name, cost in report.fixtures:
            self.fixtures[name] = self.fixtures.get(name, Cost()) + Cost(*cost)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        # A worker that crashed has said nothing.
        self.workers.append(Cost(*getattr(node, "workeroutput", {}).get("cost", ())))

    def pytest_terminal_summary(self, terminalreporter):
        if not self.tests:
            return
        write = terminalreporter.write_line
        counted = sum([*self.tests.values(), *self.fixtures.values()], Cost())
        # Without workers the children are those of tests; with them, the workers themselves.
        own = Cost(seconds=sum(os.times()[: 2 if self.workers else 4]))
        whole = sum([*self.workers, own], Cost())
        terminalreporter.section("where the time went")
        write(
            f"{whole.seconds:.0f} s of processor time, {counted.seconds:.0f} of them in tests and "
            f"{sum(self.fixtures.values(), Cost()).seconds:.0f} in the fixtures that they share; "
            f"compiling {counted.compiling:.0f} s, tracing and lowering {counted.lowering:.0f} s; "
            f"{counted.programs} programs, {counted.cached} of them from the cache"
        )
        rows = [*self.tests.items(), *((f"fixture {k}", v) for k, v in self.fixtures.items())]
        for name, cost in sorted(rows, key=lambda row: -row[1].seconds)[:SHOWN]:
            counts = f"compiling {cost.compiling:5.1f}  programs {cost.programs:4d}"
            write(f"{cost.seconds:6.1f} s  {counts}  {name}")
        if self.path:
            rows = {name: dataclasses.asdict(cost) for name, cost in rows}
            self.path.write_text(json.dumps(rows, indent=1) + "\n")
        for name, cost in self.tests.items():
            if cost.seconds > self.budgets[name]:
                write(f"over its budget of {self.budgets[name]:g} s: {cost.seconds:.1f} s  {name}")


def register(config):
    config.addinivalue_line("markers", "budget(seconds): may cost so much processor time, not 5 s")
    if not config.getoption("numprocesses", None):
        config.pluginmanager.register(Meter(), "meter")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(config.getoption("costs")), "cost_report")
