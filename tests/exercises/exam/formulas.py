"""What students write again and again: helpers of the papers."""


def like(a, x):
    """a (B,) with as many axes as x."""
    return a.reshape(-1, *[1] * (x.ndim - 1))


def small(abar_s, abar_t):
    """beta-tilde, the variance of q(x_s | x_t, x_0)."""
    return (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)


def back(x0, x, abar_s, abar_t):
    """The mean of q(x_s | x_t, x_0)."""
    ats = abar_t / abar_s
    return (abar_s.sqrt() * (1 - ats) * x0 + ats.sqrt() * (1 - abar_s) * x) / (1 - abar_t)
