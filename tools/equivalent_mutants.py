"""Mutants that are right answers all the same, each with the reason."""

ORDER = "any order of the two is right: what follows is symmetric in them"
GRID = "the task is a design: another grid with the properties that are asked for"
TIMES = "another pair of times at which the wrong sampler, and it alone, misses"
PROBE = "another probe: the right samplers land, and the wrong one does not, whatever x_0 and eps are"
DTYPE = "the numbers are right, and the task asks for no dtype"
FIRST_ORDER = "the place for the second slope is off by less than a step: still within 0.02 at 200 steps"
BOUND = "nothing lies between the two bounds"
ABSOLUTE = "an absolute value or a square follows"
DIAGONAL = "what is missing to 1 is put on the diagonal afterwards"

# exercise -> a part of "before => after" -> why the function is still right
EQUIVALENT: dict[str, dict[str, str]] = {
    "ddpm.q_sample": {
        "=> return x_t": DTYPE,
        "(eps.ndim - 1)": "the noise has the data's shape",
    },
    "ddpm.schedule": {
        "=> beta = 1 - 0.0001 ** (2 / T)": "the task is a design: another constant beta, which ends at 1e-8",
        "=> beta = 1 - 0.0002 ** (1 / T)": "the task is a design: another constant beta, which ends at 2e-4",
    },
    "ddpm.gap": {
        ".logsumexp(-1)": "the axis has no other",
        "math.log(len(log_p))": "both are of one length",
    },
    "ddpm.gaussian_kl": {"(mean2 - mean1) ** 2": ABSOLUTE},
    "ddpm.best_guess": {"(abar ** 0.5 * points - x_t[:, None]) ** 2": ABSOLUTE},
    "ddpm.simple_loss": {
        "(model(x_t, u) - eps).square()": ABSOLUTE,
        "(eps.ndim - 1)": "the noise has the data's shape",
        "=> return x_t.to(eps.dtype)": "the noise has the data's dtype",
    },
    "ddpm.ancestral": {
        "- var.sqrt() * z": "the noise is symmetric",
        "=> x = posterior_mean(x0, x, abar_s, abar_t) + var.sqrt() * z": "a single entry of the table changes no dtype",
    },
    "optimal_variance.ddim_step": {
        ".clamp(min=-1)": "the limit is for rounding alone",
        "=> left = 1 - abar_s - lambda2": "the limit is for rounding alone",
    },
    "optimal_variance.best_variance": {").sqrt() - abar_s.sqrt()": ABSOLUTE},
    "optimal_variance.grid": {
        "=> wanted = max(times[-1] + 1, round(T * (k / steps) ** ": GRID,
        "=> wanted = max(times[-1] + 2, round(": GRID,
        "=> times.append(min(wanted, T + (steps - k)))": GRID,
        "=> times.append(min(wanted, T - (k - steps)))": GRID,
        "=> times.append(min(wanted, T))": GRID,
    },
    "sde.moments": {"=> ahead = (": FIRST_ORDER},
    "sde.hutchinson": {
        "=> x = x.requires_grad_()": "the gradient through the field is the same",
        "(pulled / probe)": "the probe holds signs",
        "(field(x) / probe)": "the probe holds signs",
    },
    "sde.grid": {"** 4": GRID, "** 3": GRID},
    "diffusion_lm.e2e_loss": {
        ".transpose(2, 1)": ORDER,
        ".mean((2, 1))": ORDER,
        "(model(x_t, t / T) - target).square()": ABSOLUTE,
        "error = (said - target).square()": ABSOLUTE,
    },
    "d3pm.uniform_marginal": {"=> stays = F.one_hot(x0, K)": DTYPE},
    "d3pm.multinomial_posterior": {
        "=> back = alpha * F.one_hot(x_t, K) + ": DTYPE,
        "=> there = alpha_bar_s * F.one_hot(x0, K) + ": DTYPE,
    },
    "d3pm.gaussian_step": {
        "(i - i[:, None]) ** 2": ABSOLUTE,
        "(1 - K) ** 2": ABSOLUTE,
        ".fill_diagonal_(0) =>": DIAGONAL,
        "=> Z = 2 * weights[-1].sum() - 1": "the last row has the same weights as the first, turned round",
        "torch.diag(1 - Q.sum(0))": "the matrix is symmetric",
    },
    "d3pm.leave_one_out": {
        ".to(x_t)": "zeros and ones, whatever their dtype",
        ".to(alpha_bar_t)": "zeros and ones, whatever their dtype",
        "=> stays = F.one_hot(x_t, K)": "zeros and ones, whatever their dtype",
    },
    "d3pm.fault": {
        "kept = (1 - Q.sum(0))": ABSOLUTE,
        "if ((1 - Q.sum(1))": ABSOLUTE,
        "kept = Q.sum(0) - 1 <= ": "columns sum to K together: where one has too little, another has too much",
        "kept = (Q.sum(0) - 1).abs() < ": BOUND,
        "kept = (Q.sum(0) - 1).abs() <= 2e-06": BOUND,
        "(Q.sum(1) - 1).abs() > 2e-06": BOUND,
        "(Q.sum(1) - 1).abs() >= 1e-06": BOUND,
    },
    "d3pm.two_steps": {"torch.eye(K).to(alpha": "zeros and ones, whatever their dtype"},
    "d3pm.reveal": {"<= chance": "a uniform number equals the chance with probability 0"},
    "sedd.least_loss": {
        ".fill_diagonal_(": "at y = x both ratios are 1, and the loss is 0 whatever its weight"
    },
    "side_by_side.two_at_once": {"p.sum((2, 1), keepdim=True)": ORDER},
    "after_sedd.accept": {"[:, -1]": "the axis has one entry"},
    "after_sedd.how_many": {"sure.cumsum(-1) - sure": "there is one axis"},
    "diffuseq.misaligned": {
        "=> t, s = (": TIMES,
        "=> x0, eps = normal(2, ": PROBE,
        "=> x_t, x_s = (alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() for k": PROBE,
        "=> x_t, x_s = (alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() / eps for k": PROBE,
        "=> x_t, x_s = (alpha_bar[k].sqrt() * x0 - (1 - alpha_bar[k]).sqrt() * eps for k": PROBE,
        "(x_s - step(x_t, x0, t, s)).abs()": ABSOLUTE,
        "(step(x_t, x0, t, s) - x_s).max()": "the gap is positive somewhere",
        "(step(x_t, x0, t, s) - x_s).abs().min()": "the wrong sampler misses everywhere",
    },
}


def reason(exercise: str, change: str) -> str | None:
    """Why the reference with this change is a right answer; None where nobody has said so."""
    known = EQUIVALENT.get(exercise, {})
    return next((why for part, why in known.items() if part in change), None)
