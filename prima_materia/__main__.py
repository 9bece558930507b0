"""`python -m prima_materia` is the command `materia`, where a folder of commands is not on the path."""

from prima_materia import main

main()
