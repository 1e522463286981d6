"""What generated source may name: the lists of the screen, written out, because what is not here is refused.

``torch`` itself exposes os, sys, builtins and ctypes, and a new version may expose more; so nothing is taken from
``dir`` of anything.
"""

from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BUILTINS = _words(
    """abs all any bool callable complex dict divmod enumerate filter float frozenset int isinstance issubclass
    iter len list map max min next object pow print property range repr reversed round set slice sorted
    staticmethod classmethod str sum super tuple type zip None True False NotImplemented Ellipsis getattr
    setattr hasattr __name__ ArithmeticError AssertionError AttributeError Exception FloatingPointError
    IndexError KeyError LookupError NotImplementedError OverflowError RuntimeError RuntimeWarning StopIteration
    TypeError UserWarning ValueError ZeroDivisionError"""
)

# Of tensors; each that ends without an underscore may be used in place too.
TENSOR_METHODS = _words(
    """H T abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint all allclose amax amin
    aminmax angle any arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere asin
    asinh atan atan2 atanh baddbmm bernoulli bfloat16 bincount bitwise_and bitwise_not bitwise_or bitwise_xor
    bmm bool broadcast_to byte ceil chunk clamp clamp_max clamp_min clip clone conj contiguous copy_ copysign
    cos cosh count_nonzero cov cpu cross cummax cummin cumprod cumsum data deg2rad det detach device diag
    diag_embed diagflat diagonal diff digamma dim dist div divide dot double dtype element_size eq equal erf
    erfc erfinv exp exp2 expand expand_as expm1 exponential_ fill_ fill_diagonal_ fix flatten flip fliplr flipud
    float float_power floor floor_divide fmax fmin fmod frac gather ge get_device grad greater greater_equal gt
    half hardshrink heaviside histc hypot i0 imag index_add index_copy index_fill index_put index_select inner
    int inverse is_complex is_contiguous is_cuda is_floating_point is_leaf is_sparse isclose isfinite isinf
    isnan isneginf isposinf isreal item itemsize kron kthvalue ldexp le lerp less less_equal lgamma log log10
    log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or
    logical_xor logit logsumexp long lt mH mT masked_fill masked_scatter masked_select matmul matrix_exp
    matrix_power max maximum mean median min minimum mm mode moveaxis movedim msort mul multinomial multiply mv
    mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow ndim ndimension ne neg negative nelement
    new_empty new_full new_ones new_tensor new_zeros nonzero norm normal_ not_equal numel outer permute pinverse
    polygamma positive pow prelu prod qr quantile rad2deg ravel real reciprocal relu remainder renorm repeat
    repeat_interleave requires_grad requires_grad_ reshape reshape_as roll rot90 round rsqrt scatter scatter_add
    scatter_reduce select select_scatter sgn shape short sigmoid sign signbit sin sinc sinh size slogdet softmax
    sort split split_with_sizes sqrt square squeeze std stride sub subtract sum sum_to_size svd swapaxes
    swapdims t take take_along_dim tan tanh tensor_split tile to tolist topk trace transpose tril triu
    true_divide trunc type_as unbind unflatten unfold uniform_ unique unique_consecutive unsqueeze values
    indices var vdot view view_as where xlogy zero_"""
)

# Of modules and their layers, of Python's own values, of dataclasses and of autograd functions.
OTHER_ATTRIBUTES = _words(
    """forward parameters named_parameters modules named_modules children named_children buffers named_buffers
    register_buffer register_parameter register_module add_module training apply eval train extra_repr
    state_dict load_state_dict weight bias in_features out_features embed_dim num_heads head_dim kdim vdim
    in_proj_weight in_proj_bias out_proj q_proj_weight k_proj_weight v_proj_weight batch_first dropout p eps
    hidden_size input_size num_layers bidirectional normalized_shape num_features running_mean running_var
    num_batches_tracked affine momentum elementwise_affine kernel_size padding dilation groups in_channels
    out_channels output_size num_embeddings embedding_dim padding_idx negative_slope alpha beta num_parameters
    weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 linear1 linear2 norm1 norm2 norm3 dropout1 dropout2
    self_attn multihead_attn activation layers norm inplace append extend insert pop popitem items keys values
    get update setdefault index count copy clear sort reverse remove discard union intersection difference
    issubset issuperset join split rsplit lower upper title strip lstrip rstrip startswith endswith replace
    zfill isdigit isalpha isidentifier capitalize splitlines partition rpartition is_integer bit_length
    conjugate args setter getter deleter name value fromkeys most_common move_to_end appendleft popleft rotate
    start stop step save_for_backward saved_tensors needs_input_grad mark_non_differentiable backward
    set_materialize_grads type logits attn_output_weights data batch_sizes sorted_indices unsorted_indices Q R U
    S V Vh L sign logabsdet eigenvalues eigenvectors solution LU pivots default"""
)

# Never, even where the source defines something of that name: the ways to frames, code and free formatting.
FORBIDDEN_ATTRIBUTES = _words(
    """gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await cr_origin ag_frame ag_code ag_await f_back
    f_builtins f_code f_globals f_lasti f_lineno f_locals f_trace tb_frame tb_next tb_lasti tb_lineno co_code
    co_consts co_names co_varnames co_filename func_globals func_code mro format_map register_hook
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_post_accumulate_grad_hook numpy dump dumps tofile share_memory share_memory_ storage
    untyped_storage data_ptr map_ map2_ apply_ grad_fn as_subclass module_load get_field"""
)
METHODS = _words(
    """__init__ __call__ __len__ __iter__ __next__ __getitem__ __setitem__ __contains__ __repr__ __str__
    __post_init__ __eq__ __hash__ __bool__ __add__ __mul__ __sub__ __matmul__ __enter__ __exit__"""
)
CLASS_VARIABLES = frozenset(["__all__", "__constants__", "__slots__", "__version__"])

_TORCH_FUNCTIONS = _words(
    """adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout arange as_tensor asarray atleast_1d atleast_2d
    atleast_3d avg_pool1d bartlett_window batch_norm bilinear blackman_window block_diag broadcast_shapes
    broadcast_tensors bucketize cartesian_prod cat cdist celu chain_matmul channel_shuffle column_stack
    combinations concat concatenate conv1d conv2d conv3d conv_transpose1d conv_transpose2d corrcoef
    cosine_similarity cumulative_trapezoid dropout dsplit dstack einsum embedding empty empty_like eye full
    full_like group_norm hamming_window hann_window hsplit hstack instance_norm is_grad_enabled is_tensor isin
    kaiser_window kl_div layer_norm linspace logspace lobpcg max_pool1d max_pool2d meshgrid multinomial
    nan_to_num normal ones ones_like pairwise_distance pca_lowrank pdist pixel_shuffle pixel_unshuffle poisson
    polar promote_types rand rand_like randint randint_like randn randn_like randperm range result_type rms_norm
    row_stack rrelu searchsorted selu std_mean stack svd_lowrank tensor tensordot threshold trapezoid trapz
    tril_indices triu_indices unravel_index vander var_mean view_as_complex view_as_real vmap vsplit vstack
    zeros zeros_like complex numel stft istft bincount conj_physical Tensor Size dtype device LongTensor
    FloatTensor BoolTensor finfo iinfo Generator float16 float32 float64 float double half bfloat16 int8 int16
    int32 int64 int long short uint8 bool complex64 cfloat inf nan pi e newaxis strided contiguous_format
    preserve_format no_grad enable_grad inference_mode autocast"""
)
_FUNCTIONAL = _words(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d affine_grid alpha_dropout
    avg_pool1d avg_pool2d batch_norm bilinear binary_cross_entropy binary_cross_entropy_with_logits celu conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d cosine_embedding_loss cosine_similarity cross_entropy
    dropout dropout1d dropout2d elu elu_ embedding embedding_bag feature_alpha_dropout fold gelu glu grid_sample
    group_norm gumbel_softmax hardshrink hardsigmoid hardswish hardtanh huber_loss instance_norm interpolate
    kl_div l1_loss layer_norm leaky_relu leaky_relu_ linear local_response_norm log_softmax logsigmoid lp_pool1d
    margin_ranking_loss max_pool1d max_pool2d mish mse_loss multi_head_attention_forward nll_loss normalize
    one_hot pad pairwise_distance pdist pixel_shuffle pixel_unshuffle prelu relu relu6 relu_ rms_norm rrelu
    scaled_dot_product_attention selu selu_ sigmoid silu smooth_l1_loss softmax softmin softplus softshrink
    softsign tanh tanhshrink threshold triplet_margin_loss unfold"""
)
_LAYERS = _words(
    """AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AlphaDropout AvgPool1d AvgPool2d
    BatchNorm1d BatchNorm2d Bilinear Buffer CELU ChannelShuffle ConstantPad1d Conv1d Conv2d Conv3d
    ConvTranspose1d ConvTranspose2d CosineSimilarity CrossEntropyLoss Dropout Dropout1d Dropout2d ELU Embedding
    EmbeddingBag FeatureAlphaDropout Flatten Fold GELU GLU GRU GRUCell GroupNorm Hardshrink Hardsigmoid
    Hardswish Hardtanh Identity InstanceNorm1d InstanceNorm2d KLDivLoss LPPool1d LSTM LSTMCell LayerNorm
    LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax MSELoss MaxPool1d MaxPool2d Mish Module ModuleDict
    ModuleList MultiheadAttention PReLU PairwiseDistance Parameter ParameterDict ParameterList PixelShuffle
    PixelUnshuffle RMSNorm RNN RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReplicationPad1d SELU Sequential SiLU
    Sigmoid SmoothL1Loss Softmax Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold Transformer
    TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer Unflatten Unfold
    Upsample ZeroPad1d ZeroPad2d"""
)
_INITS = _words(
    """calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_
    trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_"""
)
_LINALG = _words(
    """cholesky cond cross det diagonal eig eigh eigvals eigvalsh householder_product inv lstsq lu matmul
    matrix_exp matrix_norm matrix_power matrix_rank multi_dot norm pinv qr slogdet solve solve_triangular svd
    svdvals tensorinv tensorsolve vander vecdot vector_norm"""
)
_FFT = _words(
    """fft fft2 fftfreq fftn fftshift hfft ifft ifft2 ifftn ifftshift ihfft irfft irfft2 irfftn rfft rfft2 rfftfreq
    rfftn"""
)
_SPECIAL = _words(
    """bessel_j0 bessel_j1 digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc gammaln i0 i0e i1 i1e log1p
    log_ndtr log_softmax logit logsumexp multigammaln ndtr ndtri polygamma psi round sinc softmax xlog1py xlogy
    zeta"""
)
_MATH = _words(
    """acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp expm1 fabs
    factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma log
    log10 log1p log2 nan perm pi pow prod radians sin sinh sqrt tan tanh tau trunc"""
)
_TYPING = _words(
    """Any Callable ClassVar Dict Final FrozenSet Generator Generic Iterable Iterator List Literal Mapping
    NamedTuple NoReturn Optional Protocol Sequence Set Tuple Type TypeAlias TypeVar TypedDict Union cast
    overload runtime_checkable TYPE_CHECKING"""
)
_COLLECTIONS_ABC = _words("Callable Generator Iterable Iterator Mapping MutableMapping Sequence Set Sized")
_ITERTOOLS = _words(
    "accumulate batched chain combinations count cycle islice pairwise permutations product repeat starmap zip_longest"
)

# By module: what may be named in it. A module may be imported under any name; nothing else may be done with it.
MODULES: Mapping[str, frozenset[str]] = {
    "torch": _TORCH_FUNCTIONS
    | (TENSOR_METHODS - {"data", "device", "grad", "requires_grad", "shape", "to", "values", "indices", "stride"}),
    "torch.nn": _LAYERS,
    "torch.nn.functional": _FUNCTIONAL,
    "torch.nn.init": _INITS,
    "torch.nn.parameter": frozenset(["Parameter", "Buffer"]),
    "torch.nn.modules": _LAYERS,
    "torch.nn.utils": frozenset(["parameters_to_vector", "spectral_norm", "weight_norm"]),
    "torch.nn.utils.parametrizations": frozenset(["orthogonal", "spectral_norm", "weight_norm"]),
    "torch.nn.utils.rnn": frozenset(["pack_padded_sequence", "pad_packed_sequence", "pad_sequence"]),
    "torch.linalg": _LINALG,
    "torch.fft": _FFT,
    "torch.special": _SPECIAL,
    "torch.autograd": frozenset(["Function"]),
    "torch.amp": frozenset(["autocast"]),
    "torch.cuda": frozenset(["is_available"]),
    "torch.utils": frozenset(),
    "torch.utils.checkpoint": frozenset(["checkpoint"]),
    "math": _MATH,
    "cmath": frozenset(["pi", "exp", "sqrt"]),
    "numbers": frozenset(["Integral", "Number", "Real"]),
    "typing": _TYPING,
    "typing_extensions": _TYPING,
    "types": frozenset(["SimpleNamespace"]),
    "dataclasses": frozenset(["asdict", "astuple", "dataclass", "field", "replace"]),
    "enum": frozenset(["Enum", "IntEnum", "StrEnum", "auto", "unique"]),
    "abc": frozenset(["ABC", "abstractmethod"]),
    "functools": frozenset(["cached_property", "lru_cache", "partial", "reduce", "wraps"]),
    "itertools": _ITERTOOLS,
    "operator": frozenset(["add", "itemgetter", "matmul", "mul", "neg", "sub", "truediv"]),
    "collections": frozenset(["Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"]),
    "collections.abc": _COLLECTIONS_ABC,
    "contextlib": frozenset(["nullcontext"]),
    "copy": frozenset(["copy", "deepcopy"]),
    "warnings": frozenset(["warn"]),
    "numpy": _words("ceil cos e exp floor inf log log2 pi prod sin sqrt"),
    "__future__": frozenset(["annotations", "division"]),
}
