"""The options of all commands, in groups that commands share."""

from advbench.cli.option_groups import FLAG, FOLDER, MANY, SWITCH, options

_MODEL = "Model"
_ATTACK = "Attack"
_MACHINE = "Machine"
_PLACE = "Folders and output"
_PATHS = "folder:PATH, npz:PATH, safetensors:PATH"

LOSS = options(
    _MODEL,
    alpha=(float, "L-GM: margin (default 1)."),
    lam=(float, "L-GM: weight of the likelihood term (default 0.1)."),
    covariance=(str, "L-GM: identity (default) or diagonal."),
    log_var_floor=(float, "L-GM: least log-variance (default -4)."),
    weight=(float, "Center: weight of the centre distance (default 0.01)."),
    centre_step=(float, "Center: step of the centres (default 0.5)."),
    margin=(int, "L-Softmax: angles count this many times (default 4)."),
    start=(float, "L-Softmax: first weight of the plain logit (default 1000)."),
    anneal=(float, "L-Softmax: share of training until its least weight (default 0.5)."),
    floor=(float, "L-Softmax: that least weight (default 0.5)."),
)
TRAINING = options(
    "Training (defaults: the data set's own)",
    epochs=(int, "Passes over the training part."),
    train_batch_size=(int, "Images a training step."),
    learning_rate=(float, "Peak learning rate."),
    momentum=(float, "Nesterov momentum."),
    weight_decay=(float, "Weight decay."),
    warmup=(float, "Epochs of linear warm-up."),
    max_gradient_norm=(float, "Longer gradients are shortened."),
    precision=(str, "fp32, or bf16 (autocast) where the device has it."),
    augmentation=(str, "none, or mirror-crop: mirrored and shifted at random."),
    full_train=(SWITCH, "Join validation to the training part."),
)
REGIME = options(
    "Adversarial training (each of these turns it on; defaults: the data set's own)",
    adversarial=(SWITCH, "Train on attacked images (positive control)."),
    adversarial_eps=(float, "L-inf radius of their attack."),
    adversarial_steps=(int, "Gradients it takes (default 1, from a random start)."),
    adversarial_step=(float, "Size of a step (default 1.25 eps, or 2.5 eps / steps)."),
    adversarial_ramp=(float, "Share of the training in which its eps rises from 0."),
)
DATA = options(
    _MODEL,
    dataset=(str, f"digits (default), another of `advbench list datasets`, or {_PATHS}."),
    image_size=(int, "Image folder: shorter side scaled to N, middle square taken."),
)
_MODEL_ITSELF = options(
    _MODEL,
    loss=(str, "softmax (default), center, l-softmax, lgm; `run` takes a list"),
    seed=(str, "Seed of weights and batches (default 0); `run` takes a list."),
    network=(str, "Network; `advbench list networks`."),
    feature_dim=(str, "2 or 100 (default)."),
)
MODEL = {**DATA, **_MODEL_ITSELF, **LOSS, **TRAINING, **REGIME}
ATTACK = options(
    _ATTACK,
    attack=(str, "`advbench list attacks` names them; one or a list."),
    eps=(str, "0.3, 8/255, or a list: 0.1,0.2,0.3; in L-inf at most 1."),
    n=(int, "The first N test images (default: all)."),
    clip=(SWITCH, "Keep images inside [0, 1] (default)."),
    exact_gradient=(SWITCH, "Take the logit gradient in float64, where float32 would round it to zero."),
    set=(MANY, "A setting of the attack, such as steps=40; may be repeated."),
)
AWARE = options(
    _ATTACK,
    detector=(str, "The detector an adaptive attack evades; a list, or none for no detector."),
    fpr=(str, "False-positive rate of its threshold (default 0.05); or a list."),
    budget=(str, "detector-aware: quick, standard (default) or thorough: 200, 2,000, 10,000 gradients."),
)
SUPPLIED = options(
    _MODEL,
    model=(str, "m.py:build, package.module:build, timm:NAME or archive.pt2: runs that code."),
    weights=(str, "Its weights, read as data; FILE:KEY for one set of several."),
    features=(str, "Layer whose output is the features (default: the last layer's input)."),
    mean=(str, "It is given (image - mean) / std: 0.5, or one a channel."),
    std=(str, "The std of that."),
    trust=(FLAG, "Open a torch.export archive, which is code."),
)
NAMED = options(
    _PLACE,
    name=(str, "Name of the study and its report's folder."),
    title=(str, "What stands over the report's page (default: the name)."),
    overwrite=(FLAG, "Replace a page over other models in its place."),
)
PLURAL = NAMED | options(_MODEL, detector=(str, "Detectors, separated by commas."))
REPRODUCE = options(
    _MODEL, cell=(str, "Only these models, such as lgm1.0-100d-seed0; separate with commas.")
) | options(
    None,
    check=(FLAG, "Derive Table 6 and the EERs from the kept weights, and compare."),
    security=(FLAG, "Only the attacks that know a detector, on what has weights."),
    no_train=(FLAG, "Evaluate what has weights; train nothing."),
)
AUDIT = options(None, complete=(FLAG, "Run what is missing first, on few images; a second call goes on.")) | options(
    _MODEL, dataset=(str, "Where the run's data lie, if they are a folder or file of yours: folder:PATH.")
)
DOCTOR = options(None, mend=(FLAG, "Forget what is broken, so that the next call makes it again; delete leftovers."))
_ONLY = {
    "dataset": "these data sets",
    "loss": "these losses",
    "alpha": "these margins",
    "lam": "these weights of the likelihood term",
    "covariance": "this covariance",
    "seed": "these seeds",
    "training": "this regime: standard or adversarial",
    "attack": "these attacks",
    "eps": "these eps",
    "detector": "these detectors",
}
SELECT = options("Selection", **{k: (str, f"Only {v}; separate several with commas.") for k, v in _ONLY.items()})
MACHINE = options(
    _MACHINE,
    device=(str, "cpu, cuda, cuda:1 (default: cuda if there is one)."),
    batch_size=(int, "Evaluation batch (default 256)."),
    threads=(int, "CPU threads (default: torch's)."),
) | options(
    _PLACE,
    data_dir=(str, "The folder that holds MNIST/raw/ and the like."),
    download=(FLAG, "Fetch missing data into the data folder."),
)
GRID = options(
    _MACHINE,
    on=(str, "Perform the cells (a model, an attack on it) on local = processes of this machine, ray, or slurm."),
    jobs=(int, "How many at once (default: one a core of this machine)."),
    gpus_per_job=(float, "ray, slurm: GPUs of each; in Ray a fraction shares one."),
    address=(str, "ray: of a cluster, or auto (default: one started on this machine)."),
    cells_per_job=(int, "slurm: cells of one model in a job (default 8)."),
    slurm=(MANY, "What a job asks for, such as partition=gpu or timeout_min=240; may be repeated."),
)
SHARD = options(
    _MACHINE, shard=(str, "Only part i of n of the images: 1/4; auto = from torchrun's RANK and WORLD_SIZE.")
)
PLACE = options(
    _PLACE,
    runs_dir=(FOLDER, "Where models and results are kept."),
    reports_dir=(FOLDER, "Where pages are written."),
    no_locks=(FLAG, "Lock nothing, on a file system without locks; one process alone may then work on a run."),
)
DOCTOR["no_locks"] = PLACE["no_locks"]
RUNS = {"runs_dir": PLACE["runs_dir"]}
JSON = options(_PLACE, json=(FLAG, "Rows as JSON on stdout, and nothing else."))
