"""From DDPM to SEDD: the library behind the notebooks.

    shapes   finite   files   batching          what every tensor is called; NaN noticed; safe writing; batches
    schedules   layers transformer nets         foundations; none knows what diffusion is
    data   sentences
    image_judge   distances   joint
    downloads                                   data that no package holds, fetched when it is asked for
    verses   pronunciations   pairs             texts, and how they are packed
    word_vectors                                vectors from counts
    ngram   text_metrics                        judges of pictures, laws and text; they know no model
    embeddings   word_nets   block_nets         networks of words, and of blocks
    length_extrapolation   cur                  longer rows than in training; matrices from a few rows and columns
    process_checks   grey_levels                what processes are given, checked; the mass of a grey level
    token_checks                                what noises and systems of tokens are given, checked
    categorical                                 noise on tokens: the base, drawing
    stationary   absorbing   mask_uniform
    structured   geodesics   information        kinds of noise, and clocks made by information
    process                                     the contract, and the one sampling loop
    wrapper   infilling                         processes around processes; known parts put back
    unified                                     estimate x_0, corrupt it again: any corruption
    tokens                                      what systems of tokens share
    enumerated                                  their bounds and chains in tiny worlds, written out
    score_entropy  tweedie                      SEDD's loss at one token, and its steps back
    ddpm   ddim   optimal_variance
    diagonal_variance   learned_variance
    sn_npr   linear_sde   sde
    solvers dpm_solver likelihood
    self_conditioning clamping
    word_chain diffusion_lm diffuseq
    autoregressive
    guidance proofread                          words: guided, chosen, read again
    d3pm ordered mdlm sedd                      systems: one paper, one file, one notebook
    block_diffusion                             by blocks, each a diffusion given those before
    duo   insertion                             uniform noise from Gaussian; any length
    mask_count                                  the number of masks as the time
    first_hitting                               positions unmasked at their exact times
    samplers                                    what samplers beside the systems are; what they ask
    decoding   remasking   correctors           masks in an order; masked again; drawn again
    discrete_flow   token_guidance              rates forwards, and guided
    speculative                                 a draft, judged
    released                                    networks of the released codes of SEDD and MDLM
    identity   parallel   random_state          whose weights they are; processes, and what they draw
    weights    learning_rate   budget           how weights are kept; how fast and how long to train
    validation   shares   text_stream           held-out data; a batch cut into parts; text as a stream
    training_input                              what train is given
    checkpoint_parts   checkpoint               a run stopped and continued
    train      evaluate
    colours   errata                            what a colour means, figures checked; what papers have wrong
    style      plots     widgets  diagrams      tools; they know the contract, never a system
    oracle   word_oracle                        perfect networks, for tests and first experiments
    predictions
    answers   edits   quantities   turns        an answer, called; the reference's text, changed
    compare   factors   relations               an answer beside the wanted one
    cases   drawn                               what exercises are tried with; what numbers that are drawn are known by
    slip_kinds   slips   listed                 the reference with one thing changed; mistakes as text
    checks   gradients   trial
    linear   by_argument                        which argument is wrong
    diagnosis   exercise
    solutions   notebook                        what happens inside a notebook
    recipes                                     named full runs that make the shipped weights and tables

Imports point upwards in this list only (tests/test_layers.py). Nothing is re-exported: the import line
`from course_lib.ddpm import DDPM` tells you which file to open.
"""

__version__ = "0.1.0"
