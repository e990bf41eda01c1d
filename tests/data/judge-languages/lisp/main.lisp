(defun primes (limit)
  (let ((composite (make-array limit :initial-element nil)))
    (loop for i from 2 below limit
          unless (aref composite i)
            count t and do (loop for j from (* i i) below limit by i do (setf (aref composite j) t)))))

(defun sum (n) (if (zerop n) 0 (+ n (sum (1- n)))))

(defun split (line)
  (loop with start = 0
        for end = (position #\Space line :start start)
        for word = (subseq line start end)
        unless (string= word "") collect word
        while end do (setf start (1+ end))))

(let ((words (make-hash-table :test #'equal)))
  (loop for line = (read-line *standard-input* nil) while line
        do (dolist (word (split line)) (incf (gethash word words 0))))
  (format t "~d~%~d~%" (primes 20000) (sum 5000))
  (dolist (word (sort (loop for word being the hash-keys of words collect word) #'string<))
    (format t "~a ~d~%" word (gethash word words))))
