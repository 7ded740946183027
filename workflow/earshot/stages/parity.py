"""The parity ladder of a program: what each form of its model loses, and where along the depth of the network."""

from __future__ import annotations

from earshot.config import ParityStage
from earshot.parity import ladder, table
from earshot.stages import stage


@stage("parity")
def main(cfg: ParityStage) -> None:
    print(table.markdown(ladder.write(cfg)), end="")


if __name__ == "__main__":
    main()
