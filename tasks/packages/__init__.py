"""What scripts import on the nodes: resolved, downloaded and packed on this machine."""
