from mvrec.cli import main

main()
