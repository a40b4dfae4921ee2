"""Speed and memory as ratios within one run (`make bench`): the library, what it is compared with, and a floor.

    measure    how time, memory and floors are measured
    gaussian   noise on real numbers: diffusers
    tokens     noise on tokens: dense matrices, Gumbel noise, diffusers
    scores     SEDD: the definition and the released form
    networks   training and sampling with a network: plain loops, an autoregressive sampler with a KV cache
    words      rounding, risk, likelihoods, imports
    report     JSON, a table, a figure

The other side of a comparison is written out here, from papers and documentation, or is an installed package.
"""
