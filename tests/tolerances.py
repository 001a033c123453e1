"""Every tolerance of the tests, a reason each. All are relative to the largest magnitude of the expected tensor."""

# float64 against another float64 computation of the same sums in another order: a few hundred roundings.
FLOAT64 = 1e-12

# Random cells in float64: powers and divisions amplify rounding by some thousands over five steps, and torch's
# own derivative of hardsigmoid, which the plain loop goes through, is off by 5e-9 (see HARDSIGMOID).
RANDOM_CELL = 1e-7

# bfloat16 has 8 bits of mantissa: 0.4 % a rounding, a few of which add up over two layers and five steps.
BFLOAT16 = 0.05

# torch multiplies by a float32 sixth in hardsigmoid's derivative, in float64 too (torch 2.13).
HARDSIGMOID = 1e-8

# float32 against another float32 computation: 24 bits of mantissa, some ten steps of sums over a few units.
FLOAT32 = 1e-5

# Products of tf32 have 11 bits of mantissa, as float16 has: 0.05 % a rounding, over tens of steps.
HALF = 0.01

# float64 after some tens of steps of training: the roundings of one step go into the weights of the next.
TRAINED = 1e-9
