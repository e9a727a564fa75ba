from mvrec.cli.main import main

main()
