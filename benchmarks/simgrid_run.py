"""Run flows on links in SimGrid and print when each finishes.

Reads from standard input a JSON list of cases ``{"bandwidth": [bytes/s, ...], "flows": [[start_s, bytes,
[link, ...]], ...]}``. All cases run in one simulation on links of their own, because SimGrid allows one
engine per process. Prints ``RESULT`` and a JSON object with ``finish`` (seconds, per case and flow),
``build_s`` and ``run_s``. With ``--version`` prints the version. Works with SimGrid 3 and 4.
"""

from __future__ import annotations

import json
import os
import sys
import time

import simgrid

# Plain max-min sharing without TCP's window, cross traffic and bandwidth factors.
OPTIONS = ("network/model:CM02", "network/crosstraffic:0", "network/TCP-gamma:0")
PRECISION = {
    3: ("surf/precision:1e-12", "maxmin/precision:1e-9"),
    4: ("precision/timing:1e-12", "precision/work-amount:1e-9"),
}


def main() -> None:
    version = str(simgrid.simgrid_version)
    if "--version" in sys.argv:
        print(version)
        return
    major = 3 if version.startswith("3.") else 4
    options = [f"--cfg={option}" for option in (*OPTIONS, *PRECISION[major])]
    engine = simgrid.Engine(["simgrid", "--log=root.thres:critical", *options])
    cases = json.load(sys.stdin)
    begin = time.perf_counter()
    zone = (
        simgrid.NetZone.create_full_zone("zone")
        if major == 3
        else engine.netzone_root.add_netzone_full("zone")
    )
    finish = [[0.0] * len(case["flows"]) for case in cases]

    def move(number: int, index: int, start: float, size: int, here: object, there: object) -> None:
        simgrid.this_actor.sleep_until(start)
        simgrid.Comm.sendto(here, there, size)
        finish[number][index] = engine.clock

    for number, case in enumerate(cases):
        links = []
        for index, rate in enumerate(case["bandwidth"]):
            name = f"c{number}l{index}"
            link = zone.create_link(name, [rate]) if major == 3 else zone.add_link(name, rate)
            links.append(link.set_latency(0).seal())
        for index, (start, size, path) in enumerate(case["flows"]):
            ends = [f"c{number}{side}{index}" for side in "ab"]
            route = [simgrid.LinkInRoute(links[link]) for link in path]
            if major == 3:
                here, there = (zone.create_host(name, 1e9).seal() for name in ends)
                zone.add_route(here.netpoint, there.netpoint, None, None, route, False)
                simgrid.Actor.create(ends[0], here, move, number, index, start, size, here, there)
            else:
                here, there = (zone.add_host(name, 1e9).seal() for name in ends)
                zone.add_route(here, there, route, False)
                here.add_actor(ends[0], move, number, index, start, size, here, there)
    zone.seal()
    built = time.perf_counter()
    engine.run()
    ended = time.perf_counter()
    result = {"finish": finish, "build_s": built - begin, "run_s": ended - built}
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")
    sys.stdout.flush()
    # SimGrid's own tear-down may hang on its threads.
    os._exit(0)


if __name__ == "__main__":
    main()
