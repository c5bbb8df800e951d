"""Autoscale formulas written after public ones, each with the dedicated nodes that it asks for.

It is Monday 2 March 2026, 10:00. 6 tasks wait or run, 4 of them wait; 4 dedicated nodes are there, 2 are wanted, and
1 spot node is preempted; a node has 4 slots. Processors are not measured.
"""

from __future__ import annotations

FORMULAS = {
    "Nextflow's default, with its comments": (
        """// The age of the pool.
        age = time() - time("2026-03-02T09:00:00.880011Z"); interval = TimeInterval_Minute * 5;
        /* The tasks that wait, or run. */
        $percent = $PendingTasks.GetSamplePercent(interval);
        $tasks = $percent < 70 ? max(0, $PendingTasks.GetSample(1))
            : max($PendingTasks.GetSample(1), avg($PendingTasks.GetSample(interval)));
        $wanted = $tasks > 0 ? $tasks : max(0, $TargetDedicatedNodes/2);
        $TargetDedicatedNodes = age < interval ? 1 : max(0, min($wanted, 5));""",
        5.0,
    ),
    "GA4GH TES, with an RFC 1123 time": (
        """$NodeDeallocationOption = taskcompletion;
        lifespan = time() - time("Mon, 02 Mar 2026 09:00:00 GMT"); span = TimeInterval_Second * 90;
        $TargetDedicated = (lifespan > span ? min($PendingTasks.GetSample(span, 10)) : 1);""",
        6.0,
    ),
    "cfa-cloudops, by waiting tasks, capped": (
        """$enough = $ActiveTasks.GetSamplePercent(TimeInterval_Minute * 15);
        // The last sample where there are few, else the larger of it and the mean.
        $waiting = $enough < 70 ? max(0, $ActiveTasks.GetSample(1)) :
            max( $ActiveTasks.GetSample(1), avg($ActiveTasks.GetSample(TimeInterval_Minute * 15)));
        $wanted = $waiting > 0 ? $waiting : max(0, $TargetDedicatedNodes / 2);
        cap = 3;
        $TargetDedicatedNodes = max(0, min($wanted, cap));
        $NodeDeallocationOption = taskcompletion;""",
        3.0,
    ),
    "Microsoft's for PowerShell, with older names and a metric": (
        """total = ($CPUPercent.GetSamplePercent(TimeInterval_Minute*0, TimeInterval_Minute*10) < 0.7 ? 5
            : min($CPUPercent.GetSample(TimeInterval_Minute*0, TimeInterval_Minute*10)));
        $TargetDedicated = min(100, total + $CurrentDedicated * 0);""",
        5.0,
    ),
    "Microsoft's for preempted nodes": (
        """most = 25;
        $TargetDedicatedNodes = min(most, $PreemptedNodeCount.GetSample(180 * TimeInterval_Second));
        $TargetLowPriorityNodes = min(most , most - $TargetDedicatedNodes);""",
        1.0,
    ),
    "Microsoft's for working hours": (
        """now = time(); day = now.weekday >= 1 && now.weekday <= 5;
        $TargetDedicatedNodes = day && now.hour >= 8 && now.hour < 18 ? 20:10;""",
        20.0,
    ),
    "Microsoft's for parallel tasks": (
        """$slots = $TargetDedicatedNodes * $TaskSlotsPerNode;
        $more = (max($ActiveTasks.GetSample(TimeInterval_Minute * 2, 1)) - $slots + 3) / 4;
        $TargetDedicatedNodes = ceil(max(0, min($TargetDedicatedNodes + $more, 3)));""",
        2.0,
    ),
    "the deviation of a sample": (
        "$TargetDedicatedNodes = std(1, 2, 3, 4, 5) > 1.58 && std(1, 2, 3, 4, 5) < 1.59 ? 3 : 0",
        3.0,
    ),
    "a stop": ("$TargetDedicatedNodes = 7; stop(); $TargetDedicatedNodes = 9;", 7.0),
}
