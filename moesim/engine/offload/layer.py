"""One MoE layer of one iteration: look experts up, and ask for those that are to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from moesim.engine.offload.computing import Computing
from moesim.engine.offload.demand import LayerDemand
from moesim.engine.offload.machine import (
    ACCESSES,
    CPU,
    HITS,
    LATE,
    LOADS,
    LOW_HITS,
    LOW_LOADS,
    SKIPPED,
    Machine,
)
from moesim.engine.offload.prices import OffloadPrices
from moesim.engine.offload.residency import HIGH, LOW
from moesim.engine.offload.turn import Ready, Turn
from moesim.errors import PolicyError
from moesim.policies.misses.base import Choice, MissPolicy, Needed
from moesim.policies.offload.precision import LOW as LOW_CLASS
from moesim.policies.offload.precision import SKIP


class LayerRunner:
    """Runs layers; holds what does not change between them.

    Args:
        machine: caches and links.
        prices: what things take.
        misses: what becomes of absent experts.
        arrival: whether experts run as they arrive, instead of all together.
        hosts: host of each device, for sharing CPUs.
        owned: experts of each MoE layer that each device may hold [devices][MoE layers].
    """

    def __init__(
        self,
        machine: Machine,
        prices: OffloadPrices,
        misses: MissPolicy,
        arrival: bool,
        hosts: Sequence[int],
        owned: Sequence[Sequence[frozenset[int]]],
    ) -> None:
        self.machine, self.prices, self.misses, self.owned = machine, prices, misses, owned
        self.whole = misses.whole
        layers = range(len(prices.weights))
        self._cpu: list[Callable[[int], float]] = [partial(prices.cpu, layer) for layer in layers]
        self._alone: dict[tuple[int, float], float] = {}
        self.computing = Computing(machine, prices, arrival, hosts)

    def begin(
        self, device: int, layer: int, demand: LayerDemand, turn: Turn, step: int, prefill: bool
    ) -> None:
        """Look the experts of a layer up and ask for those that are to be loaded."""
        machine = self.machine
        residency = machine.residency[device]
        counts = machine.counts[device][layer]
        needed = set(demand.experts)
        if not demand.experts:
            machine.pin(device, layer, ())
            machine.settle(device, layer, needed)
            return
        residency.see(step, layer, demand.ids, demand.weights, demand.precision)
        cache = residency.caches[layer]
        high, low = residency.stores[HIGH], residency.stores[-1] if len(residency.stores) > 1 else None
        first = residency.firsts[layer]
        counts[ACCESSES] += len(demand.experts)
        there: list[bool] = []
        experts: list[int] = []
        tokens: list[int] = []
        kinds: dict[int, int] = {}
        in_low: set[int] = set()
        coming: dict[int, float] = {}
        for place, (expert, count) in enumerate(zip(demand.experts, demand.tokens, strict=True)):
            slot = first + expert
            wanted = HIGH if demand.classes is None else demand.classes[place]
            if slot in high.resident[cache]:
                counts[HITS] += 1
                turn.ready.append((count, slot))
                here = True
            elif (number := high.coming[cache].get(slot)) is not None:
                self._await(device, number, (count, slot), counts, turn)
                here = True
                coming[expert] = self._left(device, layer, number, turn.begin)
            elif wanted == HIGH or (low is None and wanted == LOW_CLASS):
                kinds[expert] = HIGH
                here = False
            elif low is not None and slot in low.resident[cache]:
                counts[HITS] += 1
                counts[LOW_HITS] += 1
                in_low.add(expert)
                turn.low += count
                turn.ready.append((count, slot))
                here = True
            elif low is not None and (number := low.coming[cache].get(slot)) is not None:
                in_low.add(expert)
                turn.low += count
                self._await(device, number, (count, slot), counts, turn)
                here = True
                coming[expert] = self._left(device, layer, number, turn.begin)
            elif wanted == SKIP:
                counts[SKIPPED] += 1
                turn.skipped += count
                continue
            else:
                kinds[expert] = LOW
                in_low.add(expert)
                here = False
            experts.append(expert)
            tokens.append(count)
            there.append(here)
        turn.copies, turn.active = sum(tokens), len(experts)
        machine.pin(device, layer, needed - in_low if in_low else needed, in_low)
        if self.whole:
            self._await_layer(device, layer, turn)
        if kinds or self.misses.uses_cpu or self.whole:
            self._misses(device, layer, turn, (experts, tokens, there, kinds, coming), prefill, step)
        machine.settle(device, layer, needed)

    def _await(self, device: int, number: int, expert: Ready, counts: list[int], turn: Turn) -> None:
        counts[LATE] += 1
        turn.awaited[number] = expert
        self.machine.loader.hurry(device, number)

    def _await_layer(self, device: int, layer: int, turn: Turn) -> None:
        """Wait for the experts of a layer that are on their way, needed or not."""
        residency = self.machine.residency[device]
        first = 0 if residency.per_layer else layer * residency.frame.experts
        for store in residency.stores:
            for slot, number in store.coming[residency.caches[layer]].items():
                if first <= slot < first + residency.frame.experts and number not in turn.awaited:
                    turn.awaited[number] = (0, slot)
                    self.machine.loader.hurry(device, number)

    def _misses(
        self,
        device: int,
        layer: int,
        turn: Turn,
        looked_up: tuple[list[int], list[int], list[bool], dict[int, int], dict[int, float]],
        prefill: bool,
        step: int,
    ) -> None:
        """Let the policy choose between links and CPU, and do what it says."""
        machine = self.machine
        experts, tokens, there, kinds, coming = looked_up
        counts = machine.counts[device][layer]
        absent: tuple[int, ...] = ()
        if self.whole:
            held = machine.residency[device].present[layer]
            absent = tuple(sorted(self.owned[device][layer] - held))
        size = machine.sizes[HIGH][layer][experts[0]] if experts else 0.0
        needed = Needed(
            tuple(experts),
            tuple(tokens),
            tuple(there),
            absent,
            prefill,
            self._cpu[layer],
            lambda count: self.prices.experts(device, layer, (count,)),
            self._load_alone(device, size),
            self.prices.processor.first,
            turn.shared,
            step,
            layer,
            tuple(coming.get(expert, 0.0) for expert in experts),
        )
        choice = self.misses.choose(needed)
        copies = dict(zip(experts, tokens, strict=True))
        self._check(choice, kinds, copies, absent)
        for expert in choice.cpu:
            counts[CPU] += 1
            if expert in choice.early:
                turn.early.append(copies[expert])
                turn.foretold.append(expert)
            else:
                turn.cpu.append(copies[expert])
            counts[LATE] -= expert in coming
            if expert not in kinds:
                # It is there or on its way, but the CPU takes it: the device has one less to compute.
                slot = machine.residency[device].firsts[layer] + expert
                self._leave_to_cpu(device, (copies[expert], slot), turn)
        for expert in choice.loads:
            precision = kinds.get(expert, HIGH)
            count = copies.get(expert, 0)
            counts[LOADS if precision == HIGH else LOW_LOADS] += 1
            if precision == LOW:
                turn.low += count
            number = machine.ask(device, layer, expert, precision, turn.begin)
            if number is None:
                turn.pending.append((expert, count, precision))
            else:
                residency = machine.residency[device]
                turn.awaited[number] = (count, -1 if residency.fixed else residency.firsts[layer] + expert)

    def _check(
        self, choice: Choice, kinds: dict[int, int], copies: dict[int, int], absent: tuple[int, ...]
    ) -> None:
        """Refuse choices after which experts would be computed twice or not at all.

        Raises:
            PolicyError: the policy breaks its contract.
        """
        loads, cpu = set(choice.loads), set(choice.cpu)
        if not kinds.keys() <= loads | cpu:
            fault = f"nothing becomes of expert {min(kinds.keys() - loads - cpu)}"
        elif loads & cpu:
            fault = f"expert {min(loads & cpu)} is loaded and runs on the CPU"
        elif not cpu <= copies.keys():
            fault = f"expert {min(cpu - copies.keys())} runs on the CPU and is not needed"
        elif not loads <= kinds.keys() | set(absent):
            fault = f"expert {min(loads - kinds.keys() - set(absent))} is loaded and is there"
        else:
            return
        raise PolicyError(self.misses.name, "choosing what becomes of misses", fault)

    def _leave_to_cpu(self, device: int, expert: Ready, turn: Turn) -> None:
        """Take an expert that the device holds or awaits off its list, and let it leave."""
        if expert in turn.ready:
            turn.ready.remove(expert)
        else:
            number = next(number for number, awaited in turn.awaited.items() if awaited == expert)
            del turn.awaited[number]
        self.machine.unpin(device, expert[1])

    def _left(self, device: int, layer: int, number: int, now: float) -> float:
        """Return how long a copy under way takes until it arrives (s), as if it had been alone on its way."""
        flight = self.machine.flights[number]
        size = self.machine.sizes[flight.precision][layer][flight.expert]
        return max(0.0, self._load_alone(device, size) - (now - flight.asked))

    def _load_alone(self, device: int, size: float) -> float:
        key = (device, size)
        if key not in self._alone:
            self._alone[key] = self.machine.loader.alone(device, size)
        return self._alone[key]

    def finish(self, layer: int, turns: Sequence[Turn], watched: bool) -> None:
        """Let copies arrive and experts run until the layer is done on every device."""
        self.computing.finish(layer, turns, watched)
