"""python -m difftalk_cli"""

from difftalk_cli.main import main

main()
