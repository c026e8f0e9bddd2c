# Writes OUT from the template IN: @TABLES@ is what ENDGAME prints about itself, @VERSION@ its version.
execute_process(COMMAND ${ENDGAME} help --roff OUTPUT_VARIABLE TABLES COMMAND_ERROR_IS_FATAL ANY)
configure_file(${IN} ${OUT} @ONLY)
