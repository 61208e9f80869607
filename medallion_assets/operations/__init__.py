"""Operations: the command line, the simulated wholesaler, what people start by hand."""
