"""Kinds of answers that responses give in practice, each with answers that are correct and near misses that are not.

A line is ``gold | + correct | - incorrect``, continued by lines that start with ``|``. The test puts an answer into a
box. An answer that starts with ``>`` is a whole response, in which ``⏎`` is a line break.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recipe.prepo.reward import compute_score

TABLE = r"""
# bold
42 | + > **Answer:** 42 | + > **Final Answer:** $42$. | + > Final answer: $42$. | + > **Answer: 42**
   | + > The final answer is: **42** | + > So the total is **42 apples**. | + > ### Answer: 42
   | + > **Step 1: Set up**⏎Let x be it.⏎⏎**Step 2: Solve**⏎So x = 42. | + > __42__ | + > The answer is ***42***.
   | + > Final Answer: **42** because **6** times **7** is 42. | + > **Final Answer**⏎⏎42
   | + > **Final Answer**⏎⏎\[⏎42⏎\] | + > **Final Answer:**⏎$$42$$ | + > **Answer**: 42
   | + > Thus we get **42**.⏎⏎Let me know if you have any questions! | + > **Answer:** $\boxed{42}$
   | + > The answer is **42 km**. | + > The final answer is **42**. I hope it is correct. | + > The answer is **\$42**.
   | + > **Answer**⏎⏎**42** | + > **Verification:** 6*7 = 42. | + > The answer is: ⏎⏎**42** | + > Therefore, x = **42**
   | + > *42* | + > **$x = 42$** | + > **Answer:** `42` | + > **Final Answer**: The total is 42.
   | + > **Final Answer:** There are **42** marbles in total. | + > **Total: 42** | + > **42** is the answer.
   | + > So, **42** is the final answer. | + > **Answer: x = 42** | + > **Answer:**⏎⏎- 42 | + > **Final Result:** 42
   | + > **Final Answer** → 42 | + > **The total is 42** | + > Hence **A = 42** square units.
   | + > **Final answer:** $\mathbf{42}$ | + > **Answer:** The value of x is 42. | + > **Answer: $\$42$**
   | + > The answer is **42**. | - > So the total is **41 apples**. | - > The answer is **41**, not **42**.
   | - > The answer is **4**2. | - > answer: **-42** | - > The answer is 42.0**1**
   | - > The answer is **not 42** but **41**. | - > The answer is **42 | - > **The total is 41**
   | - > The answer is **41**.
\frac{1}{2} | + > The probability is **$\frac{1}{2}$**. | + > **1/2** | - > **Answer:** $\dfrac{1}{3}$
2 | - > **Step 1: Set up**⏎Let x.⏎⏎**Step 2: Solve** | - > **2. Solve the equation**
Tuesday | + > It is **Tuesday**. | - > It is **Monday**.
B | + > The correct option is **B**. | + > **(B)** | + > Answer: **B** | + > **Final Answer: (B) 12**
   | - > The answer is **(C)**.
x^2 | + > The answer is x**2.
1200 | + > The answer is **1,200**.
No | + > **No**, it is not.
5 | + > **Conclusion**: the value is **5**.
(3,4) | + > The point is **(3, 4)**. | + > **Answer:** $(3, 4)$ | - > **Answer:** $(4, 3)$
73 | + > **Final Answer:** **73** | + > The number is **73**! | + > **The final answer is 73.**
   | + > **Thus, there are 73 ways.** | + > Thus, the number is **73**.⏎⏎Final Answer: **73**
   | - > **Thus, there are 72 ways.** | - > **Final answer**: 72⏎
-42 | + > **Answer:** -42 | - > **Answer:**⏎⏎- 42
3,4 | + > The answers are **3** and **4**. | - > The answers are **3** and **5**.
42% | + > The answer is **42%**.
\frac{3}{4} | + > **Answer: 3/4**
1 | - > **Note 1:** the value is unknown.
# heading
42 | + > #### 42 | + > # Final Answer⏎⏎42 | + > ## Final Answer: 42 | + > ### Final Answer⏎$$⏎42⏎$$
   | + > #### Final Answer:⏎⏎**42** | + > ##### Answer⏎42 | + > #### Answer: 42 | + > #### The answer is 42.
   | + > #### Conclusion⏎The value is 42. | + > #### 1. Compute⏎6*7=42⏎#### 2. Answer⏎42 | + > #### 42 apples
   | + > #### $42$ | + > #### \boxed{42} | + > ####42 | + > #### **Answer: 42** | + > ### 42 | + > ## **42**
   | + > ### ✅ Final Answer: **42** | + > #### ✅ 42 | + > #### Final Answer⏎⏎The number of apples is **42**.
   | + > #### Final Answer⏎⏎There are 42 apples in the basket. | + > #### Verification⏎6*7=42⏎⏎The answer is 42.
   | + > #### Step 3: The answer is 42 | + > #### Solution⏎We get 6*7.⏎⏎Answer: 42 | + > #### Final Answer⏎⏎$x = 42$
   | + > #### 18 #### 42 | + > #### Solution:⏎#### 42 | + > ### 3. Final Answer⏎⏎42 | + > ### Final Answer: \(42\)
   | + > ### The Final Answer is 42 | + > ## Answer⏎**42** | + > ### Result: 42 | + > #### Final answer is 42
   | + > #### Final Answer — 42 | + > #### Part (a)⏎x=41⏎#### Part (b)⏎So the answer is 42 | + > #### 📌 Final Answer⏎42
   | + > ### Step 2: Find x⏎x = 42 | + > #### Calculation⏎⏎6 * 7 = 42⏎⏎#### Final Answer⏎⏎**42**⏎
   | + > ## Final Answer⏎⏎> 42 | + > #### Final Answer⏎⏎42
   | + > #### Step 1: Set up⏎Let x.⏎#### Step 2: Solve⏎So x = 42. The answer is 42. | + > #### **42**
   | - > ###### Answer⏎⏎41 | - > #### Answer: **41** | - > #### Conclusion⏎The value is 41.
   | - > #### Final Answer⏎⏎There are 41 apples in the basket. | - > ### Part 2⏎So it is 41. | - > #### Final Answer⏎
   | - > #### Final Answer⏎⏎41
2 | - > #### Step 1⏎foo⏎#### Step 2: Solve | - > #### 2. Solve for x | - > ### Step 2: Find x | - > ## 2. Solve
   | - > **Step 2**
1200 | + > #### 1,200
Yes | + > #### Yes | - > #### No
-5 | + > #### −5
\frac{1}{2} | + > #### \frac{1}{2} | + > #### Final Answer⏎⏎$\frac{1}{2}$ | - > #### Final Answer⏎⏎1/3
B | + > #### B | + > #### (B)
18 | - > #### 18 #### 42
3 | - > ### 3. Final Answer⏎⏎42 | - > #### Answer to part 3
4 | - > #### Step 4⏎
41 | - > ### Step 2: Find x⏎x = 42
Tuesday | + > #### Final Answer⏎⏎Tuesday | - > #### Final Answer⏎⏎Monday
# tag
B | + > <answer>(B)</answer> | + > <answer>B. 12</answer> | + > <answer>Final answer: B</answer> | + > <answer>B</answer>
   | - > <answer>A</answer>
42 | + > <answer>42</answer> | + > <answer> 42 </answer> | + > <answer>41</answer> wait <answer>42</answer>
   | + > <think>so 41</think><answer>42</answer> | + > <answer>\boxed{42}</answer> | + > <answer>**42**</answer>
   | + > <answer>$42$</answer> | + > <answer>The answer is 42.</answer> | + > <ANSWER>42</ANSWER>
   | + > <answer>⏎42⏎</answer>⏎ | + > <answer>#### 42</answer> | + > <answer><answer>42</answer></answer>
   | + > \boxed{41} <answer>42</answer> | + > <think>a</think> b <think>\boxed{41}</think> The answer is \boxed{42}
   | + > reasoning \boxed{41}</think> \boxed{42} | + > reasoning 41</think>⏎⏎42
   | + > <answer>There are 42 apples in the basket.</answer> | + > <answer>42 apples</answer>
   | + > <answer>\(42\)</answer> | + > <answer>41</answer> The answer is \boxed{42}
   | + > <think>⏎let me see <answer>41</answer>⏎</think>⏎<answer>42</answer> | + > <think>x <answer>42</answer>
   | + > <think><think>a</think>\boxed{41}</think>\boxed{42} | + > <THINK>\boxed{41}</THINK>\boxed{42}
   | + > <answer>x = 42</answer> | + > <answer>42.</answer><|im_end|> | + > <answer>The total is **42**.</answer>
   | + > <answer>\boxed{41} or rather \boxed{42}</answer> | + > <think></think>\boxed{42}
   | + > <reasoning>41</reasoning>⏎<answer>42</answer> | + > <think>The answer is 41.</think>⏎The answer is 42.
   | + > </think></think>\boxed{42} | + > <answer>⏎```⏎42⏎```⏎</answer> | + > <answer> x=42 </answer>
   | + > Use <answer></answer> tags. <answer>42</answer> | + > <think>maybe \boxed{41}</think> The answer is \boxed{42}.
   | - > <answer>The answer is 41.</answer> | - > <answer>42 | - > <think>\boxed{42}</think> | - > <think>\boxed{42}
   | - > <think>The answer is 42.</think> <answer></answer> | - > <answer>There are 41 apples in the basket.</answer>
   | - > <answer>42</answer | - > <think>thinking 42</think> | - > <answer>The total is **41**.</answer>
   | - > <answer>42</answer>⏎<answer>41</answer> | - > <think>\boxed{42}</think><answer>
41 | - > <answer>41</answer> wait <answer>42</answer> | - > <answer>41</answer> no, <answer>42
   | - > \boxed{41} <answer>42</answer> | - > <think>maybe \boxed{41}</think> The answer is \boxed{42}.
   | - > The answer is 42. <think>\boxed{41}</think>
   | - > <think>⏎let me see <answer>41</answer>⏎</think>⏎<answer>42</answer>
   | - > <think>The answer is 41.</think>⏎The answer is 42. | - > <think>The answer is 41.</think>
(1,2) | + > <answer>(1, 2)</answer>
x=3 | + > <answer>x = 3</answer>
\frac{1}{2} | + > <answer>\frac{1}{2}</answer> | + > <answer>1/2</answer> | - > <answer>1/3</answer>
Yes | + > <answer>Yes</answer> | + > <answer>\text{Yes}</answer> | - > <answer>no</answer>
1,2 | + > <answer>1, 2</answer>
x^2 | + > <answer>x**2</answer>
# cut
42 | + > \boxed{41} then \boxed{42} | + > \boxed{42}. Also { | + > \boxed{42}. Then \frac{1 | - > so \boxed{42
   | - > The answer is 42. \boxed{42 | - > The answer is | - > \boxed{42} \boxed{} | - > \boxed{4 | - > <answer>4
41 | - > \boxed{41} and \boxed{4 | - > \boxed{41} so \boxed | - > \boxed{41}. Hence \boxed{\frac{1}{2}
   | - > \boxed{41}. Hence \fbox{42 | - > #### 41 \boxed{42 | - > The answer is **41**. \boxed{
   | - > $\boxed{41}$ or $\boxed{\dfrac{42}{ | - > #### 41⏎#### | - > so \boxed{41}. Hence \boxed{42
5 | + > { stray \boxed{5} | + > \boxed{\text{x} \boxed{5}
\frac{1}{2} | - > \boxed{\frac{1}{2}
# word
No solution | + \text{no solution} | + No\ solution | + \text{No solutions} | + \text{No} \text{ solution}
   | + \text{No solution} | - \text{One solution} | - \emptyset
none of these | + None of these | + \mathrm{none\ of\ these} | + \text{none of these} | - \text{all of these}
   | - \text{none of those}
Yes | + Yes | + yes | + \textbf{Yes} | + \mbox{Yes.} | + {Yes} | + \textsc{Yes} | + \text{Yes} | - \text{Yes and No}
   | - \text{Not yes} | - \text{No}
yes | + \text{YES} | + \text{Yes!}
No | + \text{no} | - \text{not} | - \text{No solution} | - \text{None}
\text{Yes} | + Yes | + \text{yes}
\text{No} | - Yes
True | + \text{true}
False | - \text{True}
Tuesday | + \mathrm{Tuesday} | + \text{Tuesday} | - \text{Thursday}
ellipse | + \text{an ellipse} | + \text{the ellipse.}
Evelyn | + \text{``Evelyn''} | + "Evelyn"
B | + \text{(B)} | + B. | + \text{B) } 12 | + \text{Option B} | + (\text{B}) | + > The answer is (B).
   | + > The answer is B) 12. | + > The answer is: B. Tuesday | + > The correct answer is option B. | - \text{A}
   | - > The correct answer is option C. | - B, C | - BC
(B) | + B
A and B | + \text{A and B}
no real solutions | + \text{No real solutions} | - \text{no solutions}
even | + \text{Even} | - \text{not even}
odd | + \text{Odd} | - \text{even}
abc | + cab
\text{undefined} | + undefined
does not exist | + \text{Does not exist} | - \text{exists}
infinitely many | + \text{Infinitely many}
Monday | + \text{Monday }
neither | + \textit{Neither}
June 5 | + \text{June 5} | - \text{June 6}
east | - \text{west}
Saturn | + > Therefore it is Saturn. The answer is Saturn.
isosceles | - \text{isosceles triangle}
red | + \text{Red} | - \text{der}
ten | - \text{net}
YES | - No
no | + \text{No.}
Yes. | + \text{yes}
all real numbers | + \text{All real numbers} | - \text{All numbers}
right triangle | + \text{a right triangle}
Bob | + \text{Bob} | - \text{Rob}
Wednesday | + \text{wednesday}
not possible | - \text{possible}
possible | - \text{not possible}
D | + \text{D. 12} | + \textbf{(D) }12 | - \mathrm{(E)}
12 | + (C) 12 | + \text{(C) } 12 | - (C) 13
none | + \text{None}
None | + \text{none}
increasing | - \text{decreasing}
x | + \text{x}
III | + \text{III} | - \text{II}
I and II | + \text{I and II} | - \text{I and III}
I and II only | + \text{I and II only}
# e_notation
4.5e33 | + 4.5e33 | + 4.5E+33 | + 4.5\cdot10^{33} | + 4.5*10^33 | + 4.5 x 10^{33} | + > The answer is 4.5e33.
   | + > The answer is $4.5 \times 10^{33}$. | + 4.5 \times 10^{33}\text{ kg} | + 4.5 \times 10^33
   | + 4.5 \cdot {10}^{33} | + 4.5\mathrm{E}33 | + 4.5 \times 10^{+33} | + 4.5e33 kg | + x = 4.5e33
   | + 4.5 \times 10^{33} | - 4.5 \times 10^{32} | - > The answer is 4.5e32. | - 45\times10^{33} | - 4.5e34
1.2E-5 | + 0.000012 | + 12 \times 10^{-6} | - 1.2e-6
1e-05 | + 10^{-5} | + \frac{1}{100000} | + 0.001\% | + 1 \times 10^{-5} | + 0.00001 | - 1e5
0.0003 | + 3e-4
3\times 10^{-4} | + 3e-4 | - -3e4
6.02e23 | + 6.02 × 10²³ | - 6.02 × 10²²
1e3 | + 1000 | + 1,000
1000000 | + 1e6 | - 1e7
-2.5e-3 | + -0.0025 | - 0.0025
1.5e3 | + 1.5e3 \text{ m}
2e | + 2e | - 2
e^2 | + e^2
e3 | + 3e
(1e3, 2) | + (1000, 2)
1e-10 | - 0
1e-30 | - 2e-30
5e-324 | - 0
4.5e+33 | + 45 \times 10^{32}
1.0e2 | + > #### 100
1e2 | - 1e-2
2.5e3 | + 2,500 | - 2.5
6.63e-34 | + 6.63 \cdot 10^{-34} \text{ J s} | - 6.63 \cdot 10^{-33}
1e100 | + 10^{100} | - 10^{101}
0.0012 | + 1.2e-3
1,2e3 | - 1,2e4
# tiny
10^{-98} | + \frac{1}{10^{98}} | - 10^{-99}
2^{1000} | + 4^{500} | - 2^{1001}
e^{-100} | + \frac{1}{e^{100}} | - e^{-101}
\frac{\pi}{10^{50}} | + \pi \cdot 10^{-50} | - \frac{\pi}{10^{51}}
\frac{\sqrt{2}}{3^{80}} | + \frac{2}{\sqrt{2}\cdot 3^{80}} | - \frac{\sqrt{3}}{3^{80}}
\frac{1}{2004!} | + \frac{1}{2004!} | + \frac{2005}{2005!} | - \frac{1}{2005!} | - \frac{1}{2006!}
0.00000000000001 | - 0
0 | + \sqrt{2}-\sqrt{2} | - 10^{-20} | - \frac{1}{2^{100}} | - e^{-60}
\frac{1}{2^{98}} | + \left(\frac{1}{2}\right)^{98} | + > The answer is $\frac{1}{2^{98}}$. | + 2^{-98} | - (1/2)^{97}
   | - 0 | - > The answer is $\frac{1}{2^{99}}$. | - \frac{1}{2^{99}}
\frac{x}{2^{98}} | + 2^{-98}x | - \frac{x}{2^{99}}
\binom{100}{50}^{-1} | + \frac{1}{\binom{100}{50}}
\frac{1}{\binom{100}{50}} | - \frac{1}{\binom{100}{49}}
\frac{1}{3^{60}}+\frac{1}{3^{61}} | + \frac{4}{3^{61}} | - \frac{5}{3^{61}}
1-\frac{1}{2^{98}} | + \frac{2^{98}-1}{2^{98}} | - 1 | - 1-2^{-99}
\frac{1}{100!} | - \frac{1}{99!}
2^{100000} | - 2^{100001}
(2^{-98}, 1) | + (\frac{1}{2^{98}}, 1) | - (2^{-99}, 1)
\sqrt{2}\cdot10^{-20} | - 0
3^{-40}, 3^{-41} | - 3^{-40}, 3^{-42}
\{2^{-98}\} | - \{2^{-99}\}
[0,2^{-98}] | - [0,2^{-99}]
\begin{pmatrix} 2^{-98} \\ 1\end{pmatrix} | - \begin{pmatrix} 2^{-99} \\ 1\end{pmatrix}
x=2^{-98} | - x=2^{-99}
2^{-98}i | - 2^{-99}i
1+2^{-98}i | - 1+2^{-99}i
10^{-13} | + 0.0000000000001
\sin(10^{-20}) | - 0
\frac{1}{2^{1007}} | + 2^{-1007} | - \frac{1}{2^{1006}}
y=2^{-60}x | - y=2^{-61}x
# ascii
\dfrac{\pi}{2} | + 0.5*pi | + > <answer>pi/2</answer> | + > The answer is pi/2. | + pi/2 | - > The answer is pi/3.
   | - pi/3
2\pi | + 2*pi | + 2pi | - 3pi
\frac{3\pi}{4} | + 3pi/4
\sqrt{3} | + sqrt(3) | + sqrt3 | + √3 | - sqrt(2)
\frac{\sqrt{3}}{2} | + sqrt(3)/2 | + √3/2
2\sqrt{3} | + 2*sqrt(3) | + 2√3
x^2 | + x**2 | - x**3
x^{10} | + x^10
x^{-2} | + x**-2 | + 1/x**2
x^{1/2} | + sqrt(x)
\frac{x+1}{x-1} | + (x+1)/(x-1) | - (x-1)/(x+1) | - x+1/x-1
x^2+2x+1 | + x**2+2*x+1 | + x² + 2x + 1 | + (x+1)**2
\sin x | + sin(x) | + sin x | - cos(x)
\ln 2 | + ln(2)
\log 2 | + log(2)
e^{-x} | + exp(-x) | + e**(-x) | + e^(-x) | - e^x
(-\infty, 2) | + (-infinity, 2) | + (-inf, 2) | + (-oo, 2)
(-\infty, 2] | - (-oo, 2)
x \le 3 | + x <= 3 | - x < 3
\theta | + theta
\alpha+\beta | + alpha + beta
\alpha | + α
\frac12 | + ½ | - ⅓
1\frac12 | + 1½
6 | + 2×3
\frac{1}{\sqrt{n}} | + 1/sqrt(n)
\sqrt{\frac{1}{n}} | + 1/sqrt(n)
\sqrt{1/n} | + n^(-1/2) | + 1/\sqrt{n} | + \frac{1}{\sqrt{n}} | - sqrt(n) | - 1/n
\sqrt{x^2} | - x
-3 | + −3
1/2 | + \frac{1}{2}
\sqrt[3]{2} | + cbrt(2) | + 2^(1/3) | + 2**(1/3) | + ∛2
|x| | + abs(x)
\pi r^2 | + pi*r**2 | + πr² | - 2*pi*r
2^{n+1} | + 2^(n+1) | + 2**(n+1) | - 2^n+1
n! | + n!
1 \pm \sqrt{2} | + 1 +/- sqrt(2)
\frac{1+\sqrt{5}}{2} | + (1+sqrt(5))/2 | + (1+√5)/2 | - (1-sqrt(5))/2
\sqrt{2+\sqrt{3}} | + sqrt(2+sqrt(3))
(3, \frac{\pi}{2}) | + (3, pi/2)
3x | + 3*x
y=2x+3 | + y = 2*x + 3
\tan^{-1}(2) | + arctan(2)
\arctan 2 | + arctan(2)
x_1 | + x₁
5\sqrt{2} | + 5*2^(1/2)
\frac{a}{b} | + a/b | - b/a
\frac{1}{x} | + x^-1
\sqrt{ab} | + sqrt(a*b) | + sqrt(a)*sqrt(b) | + \sqrt{a}\sqrt{b}
\sqrt{a+b} | - sqrt(a)+sqrt(b)
\frac{3}{4}\pi | + (3/4)*pi
10^{-5} | + 10**-5
\frac{1}{2}\ln 3 | + ln(3)/2
\log_2 3 | + \log_2(3)
\frac{\pi}{2} | + Pi/2
\frac{n(n+1)}{2} | + n*(n+1)/2 | + n(n+1)/2 | - n*(n-1)/2
(1,2)\cup(3,4) | + (1,2) U (3,4) | - (1,2) U [3,4)
\cos 2x | + cos 2x
\tan^{-1} 2 | + tan^-1(2)
i\sqrt{3} | + sqrt(3)*i
x \neq 2 | + x != 2
2x^{3/2} | + 2*x^(3/2)
\frac{1}{2n} | + 1/(2*n) | - 1/(3*n)
e^{i\pi/3} | + e^(i*pi/3)
(-1)^n | + (-1)**n
2\pi r | + 2*pi*r | - pi*r**2
10\sqrt{2} | + 10√2
\frac{\sqrt{2}}{2} | + √2/2
3x^2 | + 3x² | - 3x³
\{1,2\} | + \{1, 2\}
\frac{1}{\sqrt{2}} | + 1/sqrt(2) | + sqrt(2)/2
\sqrt{n+1}-\sqrt{n} | + 1/(sqrt(n+1)+sqrt(n)) | - 1/(sqrt(n+1)-sqrt(n))
a^2+b^2 | + a**2 + b**2 | - (a+b)**2
\ln(x+1) | + ln(x+1)
2^{10} | + 2**10 | - 2*10
f(x)=x^2 | + f(x) = x**2
\frac{\sqrt{6}}{3} | + sqrt(6)/3 | + sqrt(2/3)
\pi-2 | + pi - 2 | - 2 - pi
\frac{5\pi}{6} | + (5pi)/6
\lfloor\sqrt{n-1}\rfloor | - \lfloor\sqrt{n-2}\rfloor | - -\lfloor\sqrt{n-1}\rfloor | - \lfloor(n-1)\rfloor
\sqrt{x} | - |x|
# unit
42 | + 42 元 | + 42个 | + 42人 | + 42\text{元} | + ４２．０ | + 42％ | + 42° | + 42℃ | + ￥42 | + ¥42 | + €42 | + 42€
   | + 42 euros | + £42 | + \$42 | + 42 USD | + 42 cm² | + 42 m² | + 42m³ | + 42\text{ cm}^2 | + 42 km/h | + 42平方米
   | + 42度 | + 42円 | + 42개 | + 42 square meters | + 42\,\text{kg} | + 42\mathrm{~cm} | + 42 \text{ units} | + > 答案是42元。
   | + > 答案：４２ | + 42 minutes | + 42 元/个 | + US\$42 | + Rs. 42 | + 42 mph | + 42 years old | + 42\text{ cm/s}^2
   | + 42小时 | + 42 (cm) | + 42（元） | + 42 KG | + 42㎝ | + 42㎡ | + 42 sq. ft | + ４２元 | + ｘ＝４２ | + 42 m/s | + \text{42元}
   | + 42\text{ 元} | + 42 ft² | + ＄４２ | + > #### 42元 | + > **42元** | + > 答案：42元 | + > 最终答案是 42 元。 | + 42元 | + ４２ | - 42万
   | - 42以上 | - 42或43 | - ４３ | - \$43 | - －４２ | - > 答案是43。 | - 42/5元 | - about 42 | - 42x | - 42k | - 42倍 | - 約42
   | - /42 | - 42/ | - 24元 | - 420元 | - 4.2元 | - 42,000元 | - > 最终答案是 43 元。 | - 43元
420000 | + 42万元
1234 | + １，２３４
B | + Ｂ | + （Ｂ） | - Ｃ
(1,2) | + （1，2） | - （2，1）
0.42 | + 42% | - 0.42%
42 \text{ cm} | + 42厘米 | + 42 cm | - 42米 | - 42 m
42元 | + 42 | + 42 yuan | - 43 | - 42美元
-42 | + －４２
3.14 | + ３．１４
x+1 | + ｘ＋１
8.4 | + 42/5元
42 \text{ hours} | - 42 minutes
42% | + 42％
0.5 | + １／２
2π | + ２π
42000 | + 42,000元
42.5 | + 42.5元
3 | + 3 hours
3 \text{ hours} | + 3小时 | - 3分钟
1/2 | + ½
"""  # noqa: E501


def _cases() -> list[Any]:
    cases, kind, gold = [], "", ""
    for line in TABLE.strip().split("\n"):
        if line.startswith("# "):
            kind = line[2:]
            continue
        first, *answers = line.split(" | ") if line[0] != " " else ["", *line.strip()[2:].split(" | ")]
        gold = first or gold
        for answer in answers:
            text = answer[2:].removeprefix("> ").replace("⏎", "\n")
            response = text if answer.startswith(("+ >", "- >")) else rf"Hence \boxed{{{text}}}."
            cases.append(pytest.param(gold, response, answer[0] == "+", id=f"{kind}: {gold} | {answer}"))
    return cases


@pytest.mark.parametrize(("gold", "response", "is_correct"), _cases())
def test_kind(gold: str, response: str, is_correct: bool) -> None:
    assert compute_score("math", response, gold, {}, time_limit_s=60)["score"] == float(is_correct)


@pytest.mark.parametrize(
    ("golds", "correct", "incorrect"),
    [
        (["22", "22.0"], ["22", "22.0"], ["23"]),
        (["3", "4"], ["3", "4"], ["5", "3, 4", "34"]),
        (("3", "4"), ["4"], ["5"]),
        (np.array(["3", "4"], dtype=object), ["4"], ["5"]),
        (np.array([3, 4]), ["4"], ["5"]),
        (np.array([0.5]), [r"\frac12"], ["5"]),
        (np.int64(42), ["42"], ["41"]),
        (42.0, ["42"], ["41"]),
        (1e22, ["10^{22}"], ["10^{21}"]),
        (1.5e-7, [r"1.5 \times 10^{-7}"], ["0"]),
        ([3, 4.5, None, float("nan"), ""], ["3", "4.5"], ["None", "nan", ""]),
        ('["3", "4"]', ["4"], ["5"]),
        ("['3', '4']", ["4"], ["5"]),
        (r'["\frac{1}{2}", "x"]', ["0.5", "x"], ["2"]),
        (r'["\\frac{1}{2}"]', ["0.5"], ["2"]),
        ("[3,4]", ["[3,4]"], ["3", "4"]),
        ([["3", "4"]], ["4"], ["5"]),
        (["B", "(B)"], [r"\text{B}"], ["C"]),
        (["1,2"], ["2,1"], ["1"]),
    ],
)
def test_any_gold_of_a_list_counts(golds: Any, correct: list[str], incorrect: list[str]) -> None:
    scores = {a: compute_score("math", rf"\boxed{{{a}}}", golds, {})["score"] for a in (*correct, *incorrect)}
    assert scores == {a: float(a in correct) for a in scores}
