"""Where `expo` and `python -m expo_cli` begin: in a warm process if there is one, see `expo_cli.warm`,
else in this one.
"""

import os


def main() -> None:
    stopped = 0
    if os.environ.get("EXPO_WARM"):
        from expo_cli.warm.client import hand_over

        stopped = hand_over("expo_cli.main:main")
    # Imported here: a command that is handed over needs none of it.
    from expo_cli import main as program

    if stopped:
        program.stop(stopped, None)
    program.main()


if __name__ == "__main__":
    main()
