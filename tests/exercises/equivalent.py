"""Mutants that are right answers all the same, each with the reason."""

# exercise -> a part of "before => after" -> why the function is still right
EQUIVALENT: dict[str, dict[str, str]] = {
    "ddpm.q_sample": {
        "=> return x_t.to(eps.dtype)": "the noise has the data's dtype",
        "=> return x_t.to(alpha_bar.dtype)": "the task asks for no dtype; in float64 the numbers are right too",
        "=> return x_t": "the task asks for no dtype; in float64 the numbers are right too",
    },
    "ddpm.schedule": {"=> beta = 1 - 0.0001 ** (2 / T)": "another constant beta: it ends at 1e-8"},
    "ddpm.ancestral": {"- var.sqrt() * torch.randn_like(x)": "the noise is symmetric"},
    "optimal_variance.grid": {
        "round(T * (k / steps) ** 4)": "another power",
        "T + (steps - k)": "this limit matters for none but steps near T, where the lower one reaches T as well",
        "T - (k - steps)": "this limit matters for none but steps near T, where the lower one reaches T as well",
    },
    "sde.hutchinson": {
        "=> x = x.requires_grad_()": "a gradient through the field's own graph is the same",
        "(pulled / probe)": "the probe holds signs",
    },
    "sde.grid": {"** 4": "another power", "** 3": "another power"},
    "diffusion_lm.e2e_loss": {".transpose(2, 1)": "the same two axes"},
    "d3pm.uniform_marginal": {
        "alpha_bar * F.one_hot(x0, K) + ": "float32 is enough, and no dtype is asked for"
    },
    "d3pm.leave_one_out": {".to(x_t)": "zeros and ones, whatever their dtype"},
    "d3pm.fault": {
        "kept = (1 - Q.sum(0))": "the absolute value is the same",
        "if ((1 - Q.sum(1))": "the absolute value is the same",
        "kept = Q.sum(0) - 1 <= ": "columns sum to K together: where one has too little, another has too much",
        "kept = (Q.sum(0) - 1).abs() < ": "the bound itself is met by no matrix",
        "kept = (Q.sum(0) - 1).abs() <= 2e-06": "nothing lies between the two bounds",
    },
    "d3pm.reveal": {"<= chance": "a uniform number equals the chance with probability 0"},
    "diffuseq.misaligned": {
        "(1 - alpha_bar[k]).sqrt() for k": "eps of ones is a probe, too",
        "- (1 - alpha_bar[k]).sqrt() * eps": "the noise's sign is arbitrary",
        "(3 * len(alpha_bar) // 8, ": "another pair of times with s < t - 1",
        "(3 * len(alpha_bar) // 5, ": "another pair of times with s < t - 1",
        "len(alpha_bar) // 3)": "another pair of times with s < t - 1",
        "len(samplers) // 4)": "another pair of times with s < t - 1",
    },
}


def reason(mutant) -> str | None:
    """Why this mutant is a right answer; None where nobody has said so."""
    known = EQUIVALENT.get(mutant.exercise, {})
    return next((why for part, why in known.items() if part in mutant.text), None)
