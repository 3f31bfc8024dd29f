"""Token-level kernels. Import them as `jaxevo.kernels`."""

if __name__ != "jaxevo.kernels":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as `jaxevo.kernels` "
        "(is the repository root on sys.path before the installed package?)."
    )
