"""`python -m expo_cli`, the form that `accelerate launch -m` needs."""

from expo_cli.main import main

if __name__ == "__main__":
    main()
