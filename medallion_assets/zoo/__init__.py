"""The model zoo: families of forecasters behind one protocol, how they are contested and served."""
